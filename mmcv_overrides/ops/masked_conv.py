"""The two halves of a convolution that is evaluated at chosen places only (guided anchoring, for inference)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the kernel windows at the chosen places into ``col``.

    Args:
        im: one image, [1, C, H, W].
        mask_h_idx: rows of the M chosen places [M], int64, of a convolution with stride 1.
        mask_w_idx: their columns [M].
        col: [C * kh * kw, M], overwritten. Pixels outside the image count as 0.
        kernel_h: kh.
        kernel_w: kw.
        pad_h: rows of zeros above and below the image.
        pad_w: columns of zeros left and right of the image.
    """
    # A mask of the size of the image may choose places whose window goes beyond the padding.
    right, bottom = max(pad_w, kernel_w - 1 - pad_w), max(pad_h, kernel_h - 1 - pad_h)
    padded = F.pad(im[0], (pad_w, right, pad_h, bottom))
    y = torch.arange(kernel_h, device=im.device)[:, None, None] + mask_h_idx
    x = torch.arange(kernel_w, device=im.device)[:, None] + mask_w_idx
    place = y * padded.size(2) + x  # [kh, kw, M]
    col.copy_(padded.flatten(1)[:, place.flatten()].view(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write the results [O, M] of the chosen places into the map ``im`` [1, O, height, width]."""
    im[0, :, mask_h_idx, mask_w_idx] = col

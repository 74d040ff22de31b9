// Autocast of the simulated device: PyTorch's lists; the stand-in takes out what torch_npu does not cast.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

using at::IntArrayRef;
using at::Scalar;
using at::ScalarType;
using at::Tensor;

namespace {
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define TO_HALF(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define TO_FLOAT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define TO_FLOAT_RESULT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define TO_WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(TO_HALF)
  AT_FORALL_FP32(TO_FLOAT)
  AT_FORALL_FP32_SET_OPT_DTYPE(TO_FLOAT_RESULT)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(TO_WIDEST)
}
}  // namespace

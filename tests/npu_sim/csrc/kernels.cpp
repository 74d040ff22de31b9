// Storage, views and copies of the simulated device, and which operators get the counting kernel.
#include "sim.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include <memory>
#include <optional>
#include <vector>

namespace sim {
namespace {
using c10::DispatchKey;
using c10::DispatchKeySet;

void refuse(c10::IntArrayRef size, at::ScalarType type, std::optional<at::MemoryFormat> format) {
  if (type == at::kDouble && c10::multiply_integers(size) > 1) {
    event("float64");
    TORCH_CHECK(!strict(), "float64 on the npu: torch_npu makes it float32");
  }
  if (format && *format != at::MemoryFormat::Contiguous && *format != at::MemoryFormat::Preserve) {
    event("channels_last");
    TORCH_CHECK(!strict(), "Only contiguous_format or preserve_format is supported.");
  }
}
int index_of(std::optional<c10::Device> device) {
  return device && device->index() >= 0 ? device->index() : current_device();
}
at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>, std::optional<c10::Device> device,
                 std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const auto dtype = c10::dtype_or_default(type);
  refuse(size, dtype, format);
  c10::DeviceGuard guard({c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(index_of(device))});
  return at::detail::empty_generic(size, device_allocator(), DispatchKeySet(DispatchKey::PrivateUse1), dtype, format);
}
at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<c10::Device> device, std::optional<bool>) {
  const auto dtype = c10::dtype_or_default(type);
  refuse(size, dtype, std::nullopt);
  c10::DeviceGuard guard({c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(index_of(device))});
  return at::detail::empty_strided_generic(size, stride, device_allocator(), DispatchKeySet(DispatchKey::PrivateUse1), dtype);
}
at::Tensor as_strided(const at::Tensor& t, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::cpu::as_strided_symint(t, size, stride, offset);
}
at::Tensor view(const at::Tensor& t, c10::SymIntArrayRef size) { return at::native::view(t, C10_AS_INTARRAYREF_SLOW(size)); }
at::Tensor reshape_alias(const at::Tensor& t, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
const at::Tensor& resize_(const at::Tensor& t, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(t.device());
  return at::native::resize_(t, C10_AS_INTARRAYREF_SLOW(size), format);
}
at::Tensor& set_tensor(at::Tensor& t, const at::Tensor& source) { return at::native::set_tensor_(t, source); }
at::Tensor& set_storage(at::Tensor& t, at::Storage source) { return at::native::set_(t, source); }
at::Tensor& set_part(at::Tensor& t, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::cpu::set_(t, source, offset, size, stride);
}
at::Scalar local_scalar(const at::Tensor& t) {
  host_sync("_local_scalar_dense");
  return at::native::_local_scalar_dense_cpu(on_host(t));
}
at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool non_blocking) {
  if (source.is_cpu()) {
    event(non_blocking && source.is_pinned() ? "h2d:async" : "h2d:blocking");
  } else if (target.is_cpu()) {
    const bool async = non_blocking && target.is_pinned();
    event(async ? "d2h:async" : "d2h:blocking");
    if (!async) host_sync("copy to the host");
  } else {
    std::string signature = "aten::copy_(";
    describe(signature, target);
    describe(signature, source);
    count_launch("aten::copy_", signature);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  on_host(target).copy_(on_host(source));
  return target;
}
at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("view", TORCH_FN(view));
  m.impl("_reshape_alias", TORCH_FN(reshape_alias));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  m.impl("set_.source_Storage", TORCH_FN(set_storage));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_part));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  // PyTorch's own composites of these two insist on a vendor's convolution
  for (const char* op : {"convolution", "convolution_backward"}) m.impl(op, torch::CppFunction::makeFromBoxedFunction<&boxed>());
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&boxed>()); }
TORCH_LIBRARY_IMPL(_, AutogradPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
}  // namespace

int64_t install_native(const std::vector<std::string>& names, const std::set<std::string>& pytorchs) {
  static std::vector<std::unique_ptr<torch::Library>> libraries;
  auto library = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", DispatchKey::PrivateUse1, __FILE__, __LINE__);
  int64_t installed = 0;
  for (const auto& full : names) {
    native_operators().insert("aten::" + full);
    const auto dot = full.find('.');
    const auto op = c10::Dispatcher::singleton().findSchema(
        {"aten::" + full.substr(0, dot), dot == std::string::npos ? "" : full.substr(dot + 1)});
    if (!op || pytorchs.count(full) || op->hasKernelForDispatchKey(DispatchKey::PrivateUse1)) continue;
    // An operator whose autograd formula is that of its composite keeps the composite; views stay metadata.
    bool keep = op->hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd);
    for (const auto& result : op->schema().returns()) keep |= result.alias_info() && !result.alias_info()->isWrite();
    if (keep) continue;
    library->impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&boxed>());
    ++installed;
  }
  libraries.push_back(std::move(library));
  return installed;
}
}  // namespace sim

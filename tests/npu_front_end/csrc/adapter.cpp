// Puts the boxed CPU kernel of tests/npu_sim behind the dispatch tables of the real torch_npu, which keeps its storage,
// allocator, streams, views, autograd, autocast and its refusal of host fallbacks.
#include "sim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <cstring>
#include <memory>

namespace sim {
void bind_hccl(pybind11::module_& m);  // npu_sim/csrc/hccl.cpp

namespace {
using c10::DispatchKey;
constexpr auto kNpu = c10::DeviceType::PrivateUse1;
c10::Device place(int device) { return {kNpu, static_cast<c10::DeviceIndex>(device)}; }
}  // namespace

int current_device() { return c10::impl::getDeviceGuardImpl(kNpu)->getDevice().index(); }

c10::Storage device_storage(const c10::Storage& host, int device) {
  const auto bytes = static_cast<int64_t>(host.nbytes());
  auto memory = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(place(device)));  // torch_npu's allocator
  if (bytes > 0) std::memcpy(memory.mutable_data_ptr(), host.data(), bytes);
  return memory.storage();
}

at::Tensor device_tensor(const c10::Storage& storage, const at::Tensor& like) {
  at::AutoDispatchBelowADInplaceOrView guard;
  auto tensor = at::empty({0}, at::TensorOptions().dtype(like.dtype()).device(storage.device()));
  return tensor.set_(storage, like.storage_offset(), like.sizes(), like.strides());
}

at::Generator default_generator(int device) { return at::globalContext().defaultGenerator(place(device)); }

// torch_npu's generators are a seed and an offset for kernels that are not here: each call draws from a CPU generator that
// starts from the two, and moves the offset on.
at::Generator host_generator(const at::Generator& device) {
  auto generator = device;
  const uint64_t offset = generator.get_offset();
  generator.set_offset(offset + 4);  // the step that it accepts
  return at::detail::createCPUGenerator(generator.current_seed() * 1000003 + offset);
}

namespace {
c10::OperatorHandle copy_op() { return c10::Dispatcher::singleton().findSchemaOrThrow("aten::copy_", ""); }

// Between host and device torch_npu copies itself where no kernel has to cast or rearrange.
void copy(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  static const auto theirs = copy_op().getComputedKernelForDispatchKey(DispatchKey::PrivateUse1);
  if (stack == nullptr) return;  // called once to keep theirs, before it is replaced
  const auto to = torch::jit::peek(stack, 0, 3).toTensor(), from = torch::jit::peek(stack, 1, 3).toTensor();
  const bool alike = to.dtype() == from.dtype() && to.sizes() == from.sizes() && to.is_contiguous() && from.is_contiguous();
  if (alike && to.device().type() != from.device().type()) return theirs.callBoxed(op, keys, stack);
  on_host(to).copy_(on_host(from));
  torch::jit::drop(stack, 3);
  torch::jit::push(stack, to);
}

void replace(const std::vector<std::string>& names) {
  static std::vector<std::unique_ptr<torch::Library>> libraries;
  copy(copy_op(), {}, nullptr);
  for (const auto& name : names) {
    const auto colon = name.find("::");
    const auto kind = torch::Library::IMPL;
    auto library = std::make_unique<torch::Library>(kind, name.substr(0, colon), DispatchKey::PrivateUse1, __FILE__, __LINE__);
    library->impl(name.substr(colon + 2).c_str(), name == "aten::copy_" ? torch::CppFunction::makeFromBoxedFunction<&copy>()
                                                                        : torch::CppFunction::makeFromBoxedFunction<&boxed>());
    libraries.push_back(std::move(library));
  }
}
}  // namespace
}  // namespace sim

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  sim::bind_hccl(m);
  m.def("replace", &sim::replace);
  m.def("forbid_syncs", &sim::forbid_syncs);  // of the operators whose kernels were replaced
}

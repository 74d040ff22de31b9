// One kernel for every operator: counted, then run by the CPU kernel on the same memory.
#include "sim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/CPUAllocator.h>

#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

namespace sim {
namespace {
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using torch::jit::Stack;

bool on_device(const at::Tensor& t) { return t.defined() && t.is_privateuseone(); }
bool is_half(const at::Tensor& t) {
  return t.defined() && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16);
}
bool is_mask(const at::Tensor& t) { return t.defined() && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte); }

// Calls f on every tensor of an argument, lists included.
template <class F>
void each_tensor(const IValue& value, F f) {
  if (value.isTensor()) {
    f(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& t : value.toTensorList()) f(t);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorList())
      if (t) f(*t);
  }
}

// The same argument with f applied to every tensor of it.
template <class F>
IValue map_tensors(const IValue& value, F f) {
  if (value.isTensor()) return f(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& t : value.toTensorList()) list.push_back(f(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorList())
      list.push_back(t ? std::optional<at::Tensor>(f(*t)) : std::nullopt);
    return list;
  }
  return value;
}

// CPU tensors over device memory for the length of one call; one CPU storage for each device storage.
class HostView {
 public:
  at::Tensor operator()(const at::Tensor& t) {
    if (!on_device(t)) return t;
    auto host = make_tensor(storage(t.storage()), DispatchKey::CPU, t);
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) host.unsafeGetTensorImpl()->set_wrapped_number(true);
    return host;
  }
  // The device storage behind a CPU tensor of this view, if it is one.
  std::optional<c10::Storage> behind(const at::Tensor& host) const {
    for (const auto& [device, cpu] : pairs_)
      if (cpu.is_alias_of(host.storage())) return device;
    return std::nullopt;
  }

 private:
  c10::Storage storage(const c10::Storage& device) {
    for (const auto& [known, cpu] : pairs_)
      if (known.is_alias_of(device)) return cpu;
    auto* keep = new c10::Storage(device);
    c10::DataPtr data(const_cast<void*>(device.data()), keep, [](void* k) { delete static_cast<c10::Storage*>(k); },
                      c10::Device(c10::DeviceType::CPU));
    c10::Storage cpu(c10::Storage::use_byte_size_t(), device.nbytes(), std::move(data), c10::GetCPUAllocator(), true);
    pairs_.emplace_back(device, cpu);
    return cpu;
  }
  std::vector<std::pair<c10::Storage, c10::Storage>> pairs_;
};

// Random operators without a generator argument: the default CPU generator takes the device's state meanwhile.
class DeviceRandomState {
 public:
  explicit DeviceRandomState(int device) : cpu_(at::detail::getDefaultCPUGenerator()), mine_(host_generator(default_generator(device))) {
    std::lock_guard<std::mutex> lock(cpu_.mutex());
    before_ = cpu_.unsafeGetGeneratorImpl()->get_state();
    cpu_.unsafeGetGeneratorImpl()->set_state(*mine_.unsafeGetGeneratorImpl()->get_state());
  }
  ~DeviceRandomState() {
    std::lock_guard<std::mutex> lock(cpu_.mutex());
    mine_.unsafeGetGeneratorImpl()->set_state(*cpu_.unsafeGetGeneratorImpl()->get_state());
    cpu_.unsafeGetGeneratorImpl()->set_state(*before_);
  }

 private:
  at::Generator cpu_, mine_;
  c10::intrusive_ptr<c10::TensorImpl> before_;
};

struct Seen {
  int device = -1;
  bool masked = false;  // a mask on the device is among the indices
  std::string signature;
};

bool takes_host_indices(const std::string& name) {
  return name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index_put", 0) == 0 || name.rfind("aten::_unsafe_index", 0) == 0;
}

Seen look(const std::string& name, const std::vector<IValue>& args) {
  Seen seen;
  seen.signature = name + "(";
  bool on_host = false;
  std::optional<c10::Device> wanted;
  for (const auto& arg : args) {
    const bool list = arg.isOptionalTensorList();
    if (arg.isDevice()) wanted = arg.toDevice();
    each_tensor(arg, [&](const at::Tensor& t) {
      describe(seen.signature, t);
      if (on_device(t)) {
        TORCH_CHECK(seen.device < 0 || seen.device == t.get_device(), name, ": tensors on npu:", seen.device, " and ", t.device());
        seen.device = t.get_device();
        seen.masked |= list && is_mask(t);
      } else {
        on_host |= t.defined() && t.dim() > 0;
      }
    });
  }
  if (on_host) {
    TORCH_CHECK(takes_host_indices(name), name, ": expected all tensors on npu:", seen.device, ", found one on the host");
    event("h2d:implicit_index");
  }
  if (seen.device < 0) seen.device = wanted && wanted->is_privateuseone() && wanted->index() >= 0 ? wanted->index() : current_device();
  return seen;
}

void judge(const c10::OperatorHandle& op, const std::string& name, const Seen& seen) {
  count_launch(name, seen.signature);
  if (!native_operators().empty() && !native_operators().count(name)) {
    {
      std::lock_guard<std::mutex> lock(counts().mutex);
      counts().not_native.insert(name);
    }
    TORCH_CHECK(!strict(), name, " is not in torch_npu's list of native operators: it would run on the host");
  }
  const bool indexing = takes_host_indices(name);
  if (indexing && seen.masked) host_sync("mask index " + name);
  if (!indexing && op.hasTag(at::Tag::dynamic_output_shape)) host_sync("shape of " + name);
  if (op.hasTag(at::Tag::data_dependent_output)) host_sync("value of " + name);
}

// Float arithmetic, rounded once: nearer to a cube unit than the CPU's half kernels, and much faster.
void run_in_float(const c10::OperatorHandle& op, Stack& stack) {
  at::ScalarType half = at::kHalf;
  for (auto& value : stack)
    value = map_tensors(value, [&](const at::Tensor& t) {
      if (!is_half(t)) return t;
      half = t.scalar_type();
      return t.to(at::kFloat);
    });
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
  for (auto& value : stack)
    value = map_tensors(value, [&](const at::Tensor& t) { return t.defined() && t.scalar_type() == at::kFloat ? t.to(half) : t; });
}

bool lacks_half(const std::exception& error) {
  const std::string text = error.what();
  return text.find("Half'") != std::string::npos || text.find("BFloat16'") != std::string::npos;
}

void run_on_cpu(const c10::OperatorHandle& op, const std::string& name, Stack& stack, bool writes) {
  static const std::unordered_set<std::string> cube = {"aten::convolution", "aten::convolution_backward", "aten::mm",
                                                       "aten::addmm",       "aten::bmm",                  "aten::baddbmm"};
  bool half = false;
  for (const auto& value : stack) each_tensor(value, [&](const at::Tensor& t) { half |= is_half(t); });
  if (half && !writes && cube.count(name)) return run_in_float(op, stack);
  const Stack again = stack;
  try {
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
  } catch (const std::exception& error) {
    if (writes || !lacks_half(error)) throw;
    event("half_in_float " + name);
    stack = again;
    run_in_float(op, stack);
  }
}

// Written arguments whose memory or shape the kernel replaced.
void carry_back(const at::Tensor& device, const at::Tensor& host) {
  if (!on_device(device)) return;
  auto* storage = device.storage().unsafeGetStorageImpl();
  if (storage->data() != host.storage().data() || storage->nbytes() != host.storage().nbytes()) {
    storage->set_data_ptr_noswap(device_storage(host.storage(), device.get_device()).set_data_ptr({nullptr, device.device()}));
    storage->set_nbytes(host.storage().nbytes());
  }
  if (device.sizes() != host.sizes() || device.strides() != host.strides())
    device.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
}

}  // namespace

void boxed(const c10::OperatorHandle& op, DispatchKeySet, Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = toString(op.operator_name());
  std::vector<IValue> args(stack->end() - schema.arguments().size(), stack->end());
  const Seen seen = look(name, args);
  judge(op, name, seen);

  HostView view;
  Stack call;
  std::vector<std::pair<at::Tensor, at::Tensor>> written;
  bool has_generator = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    const bool writes = alias != nullptr && alias->isWrite();
    has_generator |= schema.arguments()[i].name() == "generator";
    IValue value = map_tensors(args[i], [&](const at::Tensor& t) {
      auto host = view(t);
      if (writes && t.defined()) written.emplace_back(t, host);
      return host;
    });
    if (value.isDevice() && value.toDevice().is_privateuseone()) value = IValue(c10::Device(c10::kCPU));
    if (value.isGenerator() && value.toGenerator().device().is_privateuseone())
      value = IValue(host_generator(value.toGenerator()));
    else if (schema.arguments()[i].name() == "generator" && value.isNone())
      value = IValue(host_generator(default_generator(seen.device)));
    call.push_back(std::move(value));
  }
  {
    std::optional<DeviceRandomState> random;
    if (!has_generator && op.hasTag(at::Tag::nondeterministic_seeded)) random.emplace(seen.device);
    run_on_cpu(op, name, call, !written.empty());
  }
  for (const auto& [device, host] : written) carry_back(device, host);

  std::vector<std::pair<c10::Storage, c10::Storage>> made;  // CPU storage of a result -> device storage
  auto on_npu = [&](const at::Tensor& host) -> at::Tensor {
    if (!host.defined() || !host.is_cpu()) return host;
    for (const auto& [device, alias] : written)
      if (alias.unsafeGetTensorImpl() == host.unsafeGetTensorImpl()) return device;
    if (auto behind = view.behind(host)) return device_tensor(*behind, host);
    for (const auto& [cpu, device] : made)
      if (cpu.is_alias_of(host.storage())) return device_tensor(device, host);
    made.emplace_back(host.storage(), device_storage(host.storage(), seen.device));
    return device_tensor(made.back().second, host);
  };
  torch::jit::drop(*stack, schema.arguments().size());
  for (const auto& value : call) stack->push_back(map_tensors(value, on_npu));
}

at::Tensor on_host(const at::Tensor& tensor) { return HostView()(tensor); }
at::Tensor make_tensor(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  auto t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), like.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return t;
}
}  // namespace sim

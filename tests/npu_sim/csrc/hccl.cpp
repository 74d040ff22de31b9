// 'hccl' for the simulated device: gloo on CPU aliases of device tensors.
#include "sim.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/extension.h>

namespace sim {
namespace {
using Tensors = std::vector<at::Tensor>;
template <class T>
using Ptr = c10::intrusive_ptr<T>;
using c10d::Work;

// gloo's work; its results are the device tensors, which share their memory with what gloo wrote.
struct DeviceWork final : Work {
  Ptr<Work> inner;
  Ptr<c10::ivalue::Future> future;
  Tensors out;
  DeviceWork(Ptr<Work> work, Tensors results, Tensors aliases, c10d::OpType type) : Work(-1, type), inner(std::move(work)), out(std::move(results)) {
    std::vector<c10::Device> devices;
    if (!out.empty()) devices.push_back(out[0].device());
    future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), devices);
    Ptr<c10::ivalue::Future> theirs;
    try {
      theirs = inner->getFuture();
    } catch (const c10::Error&) {  // some of gloo's works have none
    }
    if (!theirs) {
      inner->wait();
      future->markCompleted(c10::IValue(out));
      return;
    }
    theirs->addCallback([mine = future, results = out, aliases](c10::ivalue::Future& done) {
      if (done.hasError()) {
        mine->setError(done.exception_ptr());
      } else {
        mine->markCompleted(c10::IValue(results));
      }
    });
  }
  bool isCompleted() override { return inner->isCompleted(); }
  bool isSuccess() const override { return inner->isSuccess(); }
  std::exception_ptr exception() const override { return inner->exception(); }
  Tensors result() override { return out; }
  bool wait(std::chrono::milliseconds timeout) override {
    const bool done = inner->wait(timeout);
    future->wait();
    return done;
  }
  void synchronize() override { inner->synchronize(); }
  Ptr<c10::ivalue::Future> getFuture() override { return future; }
};

at::Tensor alias(const at::Tensor& t, const char* what) {
  TORCH_CHECK(t.is_privateuseone(), "hccl ", what, ": tensors must be on the npu, found ", t.device());
  TORCH_CHECK(t.is_non_overlapping_and_dense(), "hccl ", what, ": tensors must be dense");
  event(std::string("collective:") + what);
  return on_host(t);
}
Tensors alias(const Tensors& list, const char* what) {
  Tensors out;
  for (const auto& t : list) out.push_back(alias(t, what));
  return out;
}
std::vector<Tensors> alias(const std::vector<Tensors>& lists, const char* what) {
  std::vector<Tensors> out;
  for (const auto& list : lists) out.push_back(alias(list, what));
  return out;
}
Tensors flat(const std::vector<Tensors>& lists) {
  Tensors out;
  for (const auto& list : lists) out.insert(out.end(), list.begin(), list.end());
  return out;
}
Ptr<Work> work(Ptr<Work> inner, Tensors out, Tensors aliases, c10d::OpType type) {
  return c10::make_intrusive<DeviceWork>(std::move(inner), std::move(out), std::move(aliases), type);
}

struct Hccl final : c10d::Backend {
  Ptr<c10d::Backend> gloo;
  explicit Hccl(Ptr<c10d::Backend> backend) : Backend(backend->getRank(), backend->getSize()), gloo(std::move(backend)) {}
  const std::string getBackendName() const override { return "hccl"; }
  Ptr<Work> broadcast(Tensors& t, const c10d::BroadcastOptions& o) override {
    auto a = alias(t, "broadcast");
    return work(gloo->broadcast(a, o), t, a, c10d::OpType::BROADCAST);
  }
  Ptr<Work> allreduce(Tensors& t, const c10d::AllreduceOptions& o) override {
    auto a = alias(t, "allreduce");
    return work(gloo->allreduce(a, o), t, a, c10d::OpType::ALLREDUCE);
  }
  Ptr<Work> reduce(Tensors& t, const c10d::ReduceOptions& o) override {
    auto a = alias(t, "reduce");
    return work(gloo->reduce(a, o), t, a, c10d::OpType::REDUCE);
  }
  Ptr<Work> allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& o) override {
    auto a = alias(out, "allgather");
    auto b = alias(in, "allgather");
    auto inner = gloo->allgather(a, b, o);
    return work(inner, flat(out), flat(a), c10d::OpType::ALLGATHER);
  }
  Ptr<Work> _allgather_base(at::Tensor& out, at::Tensor& in, const c10d::AllgatherOptions& o) override {
    auto a = alias(out, "allgather");
    auto b = alias(in, "allgather");
    return work(gloo->_allgather_base(a, b, o), {out}, {a, b}, c10d::OpType::_ALLGATHER_BASE);
  }
  Ptr<Work> gather(std::vector<Tensors>& out, Tensors& in, const c10d::GatherOptions& o) override {
    auto a = alias(out, "gather");
    auto b = alias(in, "gather");
    return work(gloo->gather(a, b, o), flat(out), flat(a), c10d::OpType::GATHER);
  }
  Ptr<Work> scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ScatterOptions& o) override {
    auto a = alias(out, "scatter");
    auto b = alias(in, "scatter");
    return work(gloo->scatter(a, b, o), out, a, c10d::OpType::SCATTER);
  }
  Ptr<Work> barrier(const c10d::BarrierOptions& o) override {
    event("collective:barrier");
    return gloo->barrier(o);
  }
  void setSequenceNumberForGroup() override { gloo->setSequenceNumberForGroup(); }
  uint64_t getSequenceNumberForGroup() override { return gloo->getSequenceNumberForGroup(); }
  void abort() override { gloo->abort(); }
  void shutdown() override { gloo->shutdown(); }
};
}  // namespace

void bind_hccl(pybind11::module_& m) {
  pybind11::module_::import("torch._C._distributed_c10d");
  m.def("make_hccl", [](const Ptr<c10d::Backend>& gloo) -> Ptr<c10d::Backend> { return c10::make_intrusive<Hccl>(gloo); },
        pybind11::call_guard<pybind11::gil_scoped_release>());
}
}  // namespace sim

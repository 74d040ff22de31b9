// Allocator, pinned memory, generators, device guard and hooks of the simulated device.
#include "sim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace sim {
namespace {
constexpr auto kNpu = c10::DeviceType::PrivateUse1;
constexpr int kMost = 8;
constexpr size_t kAlign = 512;
thread_local int t_device = 0;

struct Ledger {
  std::atomic<int64_t> live{0}, peak{0};
  void add(int64_t bytes) {
    const int64_t now = live += bytes;
    int64_t seen = peak;
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }
};
std::array<Ledger, kMost> g_ledger;

void* aligned(size_t bytes) {
  void* pointer = nullptr;
  TORCH_CHECK(posix_memalign(&pointer, kAlign, std::max<size_t>(bytes, 1)) == 0, "simulated npu: out of memory");
  return pointer;
}

// Owner of device memory: its own, or that of a CPU storage which a kernel made.
struct Block {
  void* own;
  c10::Storage host;
  int64_t bytes;
  int device;
  ~Block() {
    g_ledger[device].add(-bytes);
    free(own);
  }
};
void release(void* block) { delete static_cast<Block*>(block); }

c10::DataPtr owned(void* pointer, Block* block) {
  g_ledger[block->device].add(block->bytes);
  return {pointer, block, &release, c10::Device(kNpu, static_cast<c10::DeviceIndex>(block->device))};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, c10::Device(kNpu, static_cast<c10::DeviceIndex>(t_device))};
    void* pointer = aligned(bytes);
    return owned(pointer, new Block{pointer, {}, static_cast<int64_t>(bytes), t_device});
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

struct PinnedAllocator final : c10::Allocator {
  std::mutex mutex;
  std::map<uintptr_t, size_t> live;
  static PinnedAllocator& get() {
    static auto* allocator = new PinnedAllocator;
    return *allocator;
  }
  static void drop(void* pointer) {
    {
      std::lock_guard<std::mutex> lock(get().mutex);
      get().live.erase(reinterpret_cast<uintptr_t>(pointer));
    }
    free(pointer);
  }
  c10::DataPtr allocate(size_t bytes) override {
    void* pointer = aligned(bytes);
    std::lock_guard<std::mutex> lock(mutex);
    live[reinterpret_cast<uintptr_t>(pointer)] = std::max<size_t>(bytes, 1);
    return {pointer, pointer, &drop, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &drop; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool holds(const void* pointer) {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    std::lock_guard<std::mutex> lock(mutex);
    auto next = live.upper_bound(at);
    if (next == live.begin()) return false;
    --next;
    return at < next->first + next->second;
  }
};

// A device's generator: a CPU generator of its own draws, so that the host's random state stays untouched.
struct DeviceGenerator final : at::CPUGeneratorImpl {
  at::Generator host = at::detail::createCPUGenerator();
  explicit DeviceGenerator(int device) {
    device_ = c10::Device(kNpu, static_cast<c10::DeviceIndex>(device));
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
};

const at::Generator& generator_of(int device) {
  static const auto* generators = [] {
    auto* made = new std::vector<at::Generator>;
    for (int i = 0; i < kMost; ++i) made->push_back(at::make_generator<DeviceGenerator>(i));
    return made;
  }();
  return (*generators)[device < 0 ? t_device : device];
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Clock = std::chrono::steady_clock;
  static constexpr c10::DeviceType static_type = kNpu;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return kNpu; }
  c10::Device getDevice() const override { return {kNpu, static_cast<c10::DeviceIndex>(t_device)}; }
  void setDevice(c10::Device device) const override { exchange_device(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) t_device = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {kNpu, static_cast<c10::DeviceIndex>(exchange_device(device.index()))};
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device.index() < 0 ? getDevice() : device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(device_count()); }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Clock::time_point;
    *static_cast<Clock::time_point*>(*event) = Clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Clock::time_point*>(event); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { host_sync("synchronize_stream"); }
  void synchronizeEvent(void*) const override { host_sync("synchronize_event"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { host_sync("synchronize_device"); }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    const auto span = *static_cast<Clock::time_point*>(to) - *static_cast<Clock::time_point*>(from);
    return std::chrono::duration<double, std::milli>(span).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  void init() const override {}
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(device_count()); }
  void setCurrentDevice(c10::DeviceIndex device) const override { exchange_device(device); }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(t_device); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return static_cast<c10::DeviceIndex>(exchange_device(device));
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override { return exchangeDevice(device); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex device) const override { return generator_of(device); }
  at::Generator getNewGenerator(c10::DeviceIndex device) const override {
    return at::make_generator<DeviceGenerator>(device < 0 ? t_device : int(device));
  }
  at::Device getDeviceFromPtr(void*) const override { return {kNpu, static_cast<c10::DeviceIndex>(t_device)}; }
  bool isPinnedPtr(const void* pointer) const override { return PinnedAllocator::get().holds(pointer); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedAllocator::get(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::native::resize_bytes_nocuda(storage, static_cast<int64_t>(bytes));
  }
};
DeviceAllocator g_allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &g_allocator);
}  // namespace

int device_count() {
  static const int count = [] {
    const char* wanted = std::getenv("NPU_SIM_DEVICES");
    return wanted ? std::min(std::max(1, std::atoi(wanted)), kMost) : 2;
  }();
  return count;
}
int current_device() { return t_device; }
int exchange_device(int index) {
  TORCH_CHECK(index < device_count(), "simulated npu: no device npu:", index);
  const int before = t_device;
  if (index >= 0) t_device = index;
  return before;
}
c10::Allocator* device_allocator() { return &g_allocator; }
c10::Storage device_storage(const c10::Storage& host, int device) {
  const c10::Device place(kNpu, static_cast<c10::DeviceIndex>(device));
  const auto bytes = static_cast<int64_t>(host.nbytes());  // the CPU storage's memory is the device's from now on
  auto data = bytes == 0 ? c10::DataPtr(nullptr, nullptr, &release, place)
                         : owned(const_cast<void*>(host.data()), new Block{nullptr, host, bytes, device});
  return c10::Storage(c10::Storage::use_byte_size_t(), host.nbytes(), std::move(data), &g_allocator, true);
}
at::Tensor device_tensor(const c10::Storage& storage, const at::Tensor& like) {
  return make_tensor(storage, c10::DispatchKey::PrivateUse1, like);
}
int64_t live_bytes(int device) { return g_ledger[device].live; }
int64_t peak_bytes(int device) { return g_ledger[device].peak; }
void reset_peak(int device) { g_ledger[device].peak = g_ledger[device].live.load(); }
at::Generator default_generator(int device) { return generator_of(device); }
at::Generator host_generator(const at::Generator& device) {
  return static_cast<DeviceGenerator*>(device.unsafeGetGeneratorImpl())->host;
}
void register_hooks() { at::RegisterPrivateUse1HooksInterface(new Hooks); }
}  // namespace sim

// The part of the Ascend runtime that has a meaning on host memory: allocation, copies, streams, events, device queries.
// Compiled against the headers in torch_npu's wheel; build.py adds every other symbol that its libraries import, returning 0.
// Streams run at once, so an event is over when it is recorded.
#define _GNU_SOURCE
#include <acl/acl_op_compiler.h>
#include <acl/acl_rt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEVICES 2
#define BYTES ((size_t)64 << 30)
#define OK ACL_SUCCESS
#define FREED_BY_NOBODY calloc(1, 64)  // handles are small and few

static __thread int32_t device = 0;
static __thread int chosen = 0;

// devices and contexts: context N belongs to device N - 1
aclError aclInit(const char *path) { return OK; }
aclError aclrtGetDeviceCount(uint32_t *count) { return *count = DEVICES, OK; }
aclError aclrtSetDevice(int32_t index) {
  if (index < 0 || index >= DEVICES) return ACL_ERROR_RT_INVALID_DEVICEID;
  return device = index, chosen = 1, OK;
}
aclError aclrtGetDevice(int32_t *index) { return *index = device, chosen ? OK : ACL_ERROR_RT_CONTEXT_NULL; }
aclError aclrtGetCurrentContext(aclrtContext *context) { return *context = (void *)(intptr_t)(device + 1), OK; }
aclError aclrtSetCurrentContext(aclrtContext context) { return aclrtSetDevice((int32_t)(intptr_t)context - 1); }
aclError aclrtGetPrimaryCtxState(int32_t index, uint32_t *flags, int32_t *active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return OK;
}
const char *aclrtGetSocName(void) { return "Ascend910B2"; }
const char *aclGetRecentErrMsg(void) { return "stub of the Ascend runtime"; }
aclError aclGetDeviceCapability(uint32_t index, aclDeviceInfo info, int64_t *value) { return *value = 32, OK; }
aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t one, int32_t other) { return *can = 1, OK; }
aclError aclrtDeviceGetBareTgid(int32_t *pid) { return *pid = getpid(), OK; }
aclError aclrtGetMemInfo(aclrtMemAttr attribute, size_t *unused, size_t *total) { return *unused = *total = BYTES, OK; }
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) { return *value = 0, OK; }
aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) { return OK; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return OK; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) { return OK; }
aclError aclrtSetOpExecuteTimeOut(uint32_t seconds) { return OK; }
aclError aclSetCompileopt(aclCompileOpt option, const char *value) { return OK; }
aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t room) { return *value = 0, OK; }
size_t aclGetCompileoptSize(aclCompileOpt option) { return 1; }
aclError aclrtPeekAtLastError(aclrtLastErrLevel level) { return OK; }
aclError aclrtGetLastError(aclrtLastErrLevel level) { return OK; }
aclError aclrtProcessReport(int32_t ms) { return usleep(1000), OK; }

// memory
static aclError aligned(void **pointer, size_t bytes) {
  return posix_memalign(pointer, 512, bytes ? bytes : 1) ? ACL_ERROR_RT_MEMORY_ALLOCATION : OK;
}
aclError aclrtMalloc(void **pointer, size_t bytes, aclrtMemMallocPolicy policy) { return aligned(pointer, bytes); }
aclError aclrtMallocAlign32(void **pointer, size_t bytes, aclrtMemMallocPolicy policy) { return aligned(pointer, bytes); }
aclError aclrtMallocHost(void **pointer, size_t bytes) { return aligned(pointer, bytes); }
aclError aclrtMallocHostWithCfg(void **pointer, uint64_t bytes, aclrtMallocConfig *config) { return aligned(pointer, bytes); }
aclError aclrtFree(void *pointer) { return free(pointer), OK; }
aclError aclrtFreeHost(void *pointer) { return free(pointer), OK; }
aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind kind) {
  return memmove(to, from, bytes), OK;
}
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind kind, aclrtStream stream) {
  return memmove(to, from, bytes), OK;
}
aclError aclrtMemset(void *pointer, size_t room, int32_t value, size_t bytes) { return memset(pointer, value, bytes), OK; }
aclError aclrtMemsetAsync(void *pointer, size_t room, int32_t value, size_t bytes, aclrtStream stream) {
  return memset(pointer, value, bytes), OK;
}
aclError aclrtPointerGetAttributes(const void *pointer, aclrtPtrAttributes *attributes) {
  return memset(attributes, 0, sizeof *attributes), OK;
}

// streams and events
aclError aclrtCreateStream(aclrtStream *stream) { return *stream = FREED_BY_NOBODY, OK; }
aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag) { return aclrtCreateStream(stream); }
aclError aclrtDestroyStream(aclrtStream stream) { return OK; }
aclError aclrtDestroyStreamForce(aclrtStream stream) { return OK; }
aclError aclrtSynchronizeStream(aclrtStream stream) { return OK; }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t ms) { return OK; }
aclError aclrtSynchronizeDevice(void) { return OK; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t ms) { return OK; }
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status) { return *status = ACL_STREAM_STATUS_COMPLETE, OK; }
aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) { return *id = 1, OK; }
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) { return OK; }
aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus *status, aclmdlRI *model) {
  if (model) *model = NULL;
  return *status = ACL_MODEL_RI_CAPTURE_STATUS_NONE, OK;
}
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) { return *event = FREED_BY_NOBODY, OK; }
aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag) { return *event = FREED_BY_NOBODY, OK; }
aclError aclrtDestroyEvent(aclrtEvent event) { return free(event), OK; }
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) { return clock_gettime(CLOCK_MONOTONIC, event), OK; }
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) { return OK; }
aclError aclrtSynchronizeEvent(aclrtEvent event) { return OK; }
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
  return *status = ACL_EVENT_RECORDED_STATUS_COMPLETE, OK;
}
aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) {
  return *status = ACL_EVENT_WAIT_STATUS_COMPLETE, OK;
}
aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end) {
  const struct timespec *from = start, *to = end;
  return *ms = (to->tv_sec - from->tv_sec) * 1e3f + (to->tv_nsec - from->tv_nsec) * 1e-6f, OK;
}

// There is no operator library: whatever still gets this far names itself.
aclError aclopCompileAndExecute(const char *op, int inputs, const aclTensorDesc *const in[], const aclDataBuffer *const from[],
                                int outputs, const aclTensorDesc *const out[], aclDataBuffer *const to[],
                                const aclopAttr *attributes, aclopEngineType engine, aclopCompileType type, const char *path,
                                aclrtStream stream) {
  return fprintf(stderr, "no operator library behind this torch_npu: %s\n", op), ACL_ERROR_OP_NOT_FOUND;
}
aclDataBuffer *aclCreateDataBuffer(void *data, size_t bytes) { return FREED_BY_NOBODY; }
aclTensorDesc *aclCreateTensorDesc(aclDataType type, int count, const int64_t *sizes, aclFormat format) {
  return FREED_BY_NOBODY;
}
aclopAttr *aclopCreateAttr(void) { return FREED_BY_NOBODY; }
void aclAppLog(aclLogLevel level, const char *function, const char *file, uint32_t line, const char *format, ...) {}

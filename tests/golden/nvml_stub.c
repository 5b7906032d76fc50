/* A stand-in for libnvidia-ml.so.1: two GPUs with fixed values, driven by the real pynvml.
 *
 * The file named by NVML_STUB_STATE holds lines "<call> <gpu> <code>", read anew at each call:
 * that call on that GPU then returns the code (3 not supported, 15 GPU is lost, 9 driver not
 * loaded); code -1 never returns. Calls without a GPU use 0. The file named by NVML_STUB_LOG
 * receives one line per init and shutdown.
 *
 *   gcc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o DIR/libnvidia-ml.so.1 nvml_stub.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

static const unsigned long long TOTAL[2] = {24ULL << 30, 16ULL << 30};
static const unsigned long long USED[2] = {6ULL << 30, 15ULL << 30};
static const unsigned int BUSY[2] = {37, 100};
static const unsigned int MILLIWATTS[2] = {71250, 250000};
static int sessions = 0;

static int index_of(void *device) { return (int)(size_t)device - 1; }

static int scripted(const char *call, int gpu) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[64];
    int number, code, result = 0;
    while (file && fscanf(file, "%63s %d %d", name, &number, &code) == 3)
        if (number == gpu && strcmp(name, call) == 0) result = code;
    if (file) fclose(file);
    while (result == -1) pause();
    return result;
}

static void record(const char *event) {
    const char *path = getenv("NVML_STUB_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s\n", event);
    fclose(file);
}

static int checked(const char *call, int gpu) {
    return sessions ? scripted(call, gpu) : 1;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    int code = scripted("init", 0);
    if (code) return code;
    sessions++;
    record("init");
    return 0;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    if (!sessions) return 1;
    sessions--;
    record("shutdown");
    return 0;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 2;
    return checked("count", 0);
}

int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    snprintf(text, length, "580.00.01");
    return checked("driver", 0);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = (void *)(size_t)(index + 1);
    return checked("handle", (int)index);
}

int nvmlDeviceGetName(void *device, char *text, unsigned int length) {
    snprintf(text, length, index_of(device) ? "Stub 16GB" : "Stub 24GB");
    return checked("name", index_of(device));
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned int length) {
    snprintf(text, length, "GPU-0000000%d", index_of(device));
    return checked("uuid", index_of(device));
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    int gpu = index_of(device);
    memory->total = TOTAL[gpu];
    memory->used = USED[gpu];
    memory->free = TOTAL[gpu] - USED[gpu];
    return checked("memory", gpu);
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *utilization) {
    utilization->gpu = BUSY[index_of(device)];
    utilization->memory = 0;
    return checked("utilization", index_of(device));
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    *milliwatts = MILLIWATTS[index_of(device)];
    return checked("power", index_of(device));
}

/* Stands between ExecuTorch 1.4.1 and newer versions of Qualcomm's library, as libQnnHtp.so: ExecuTorch writes the chip into the
   second word of a device's custom setting, the library (2.51) reads it from the third. All else goes to the library itself,
   which the environment variable QNN_HTP names. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FUNCTIONS = 40, DEVICE_CREATE = 40, MOST = 16 }; /* bytes before the table, and a place in it */

typedef struct {
    uint32_t option;
    void *custom;
} Config;
typedef uint64_t (*Create)(void *, const Config **, void **);
typedef uint64_t (*Providers)(char ***, uint32_t *);

static Create create;

static uint64_t create_device(void *log, const Config **given, void **device)
{
    const Config *list[MOST + 1] = {0};
    Config configs[MOST];
    uint32_t words[MOST][6] = {{0}};
    for (int i = 0; given && given[i] && i < MOST; i++) {
        configs[i] = *given[i];
        if (configs[i].option == 0) {
            const uint32_t *old = configs[i].custom;
            words[i][0] = old[0];
            words[i][2] = old[1];
            words[i][3] = old[0] ? old[2] : 0;
            configs[i].custom = words[i];
        }
        list[i] = &configs[i];
    }
    return create(log, given ? list : NULL, device);
}

uint64_t QnnInterface_getProviders(char ***providers, uint32_t *count)
{
    const char *path = getenv("QNN_HTP");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    Providers get = library ? (Providers)dlsym(library, "QnnInterface_getProviders") : NULL;
    if (!get) {
        fprintf(stderr, "QNN_HTP is %s: %s\n", path ? path : "not set", path ? dlerror() : "name the library");
        return 1;
    }
    uint64_t status = get(providers, count);
    if (status || *count == 0)
        return status;
    void **place = (void **)((*providers)[0] + FUNCTIONS) + DEVICE_CREATE;
    if (*place == (void *)create_device)
        return 0;
    uintptr_t page = sysconf(_SC_PAGESIZE);
    if (mprotect((void *)((uintptr_t)place & ~(page - 1)), page, PROT_READ | PROT_WRITE))
        return 1;
    create = (Create)*place;
    *place = (void *)create_device;
    return 0;
}

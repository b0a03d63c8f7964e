/* Qualcomm's library with a fault, as libQnnHtp.so: what the environment variable QNN_FAULT names goes wrong. A number: that
   function of the table fails. "version": the interface is an older one. "size": the compiled graph is larger than any memory.
   All else goes to the library itself, which QNN_HTP names. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MINOR = 20, FUNCTIONS = 40, BINARY_SIZE = 11 }; /* bytes before the version and the table, and a place in it */

typedef uint64_t (*Providers)(char ***, uint32_t *);

static uint64_t fail(void) { return 6999; }

static uint64_t huge(void *context, uint64_t *size)
{
    (void)context;
    *size = UINT64_MAX / 4;
    return 0;
}

/* Writes into the library's constants. */
static int put(void *at, const void *what, size_t size)
{
    uintptr_t page = sysconf(_SC_PAGESIZE), from = (uintptr_t)at & ~(page - 1), to = (uintptr_t)at + size;
    if (mprotect((void *)from, to - from, PROT_READ | PROT_WRITE))
        return 1;
    memcpy(at, what, size);
    return 0;
}

uint64_t QnnInterface_getProviders(char ***providers, uint32_t *count)
{
    const char *path = getenv("QNN_HTP"), *fault = getenv("QNN_FAULT");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    Providers get = library ? (Providers)dlsym(library, "QnnInterface_getProviders") : NULL;
    if (!get || !fault) {
        fprintf(stderr, "QNN_HTP and QNN_FAULT name the library and the fault\n");
        return 1;
    }
    uint64_t status = get(providers, count);
    if (status || *count == 0)
        return status;
    char *provider = (*providers)[0];
    void **table = (void **)(provider + FUNCTIONS);
    if (!strcmp(fault, "version")) {
        uint32_t old = 3;
        return put(provider + MINOR, &old, sizeof old);
    }
    int is_size = !strcmp(fault, "size");
    void *function = is_size ? (void *)huge : (void *)fail;
    return put(&table[is_size ? BINARY_SIZE : atoi(fault)], &function, sizeof function);
}

/* A stand-in for libcuda.so.1 that has no device: the 25 symbols that cuDNN 9.19 and NVRTC look for before they compile
 * a kernel for a card that is only described. "No device, and no error" makes cuDNN skip loading what it compiled;
 * every other call answers CUDA_ERROR_NO_DEVICE. Only for the library path of one test process: on a machine with a
 * driver it would hide the card.
 *
 *     gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 tests/cudnn_plans/zero_devices.c
 */
#define NO_DEVICE 100
#define DRIVER 13000 /* the toolkit's version: CUDA 13.0 */

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);

int cuInit(unsigned flags)
{
    (void)flags;
    return NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
    *version = DRIVER;
    return 0;
}

int cuDeviceGetCount(int *count)
{
    *count = 0;
    return 0;
}

/* Looked up, hardly ever called; the arguments do not matter. */
#define REFUSE(name)      \
    int name(void);       \
    int name(void)        \
    {                     \
        return NO_DEVICE; \
    }

REFUSE(cuCtxGetCurrent)
REFUSE(cuCtxGetLimit)
REFUSE(cuCtxPopCurrent)
REFUSE(cuCtxPushCurrent)
REFUSE(cuDeviceGet)
REFUSE(cuGetErrorName)
REFUSE(cuGetErrorString)
REFUSE(cuKernelGetAttribute)
REFUSE(cuKernelSetAttribute)
REFUSE(cuLaunchCooperativeKernel)
REFUSE(cuLaunchKernel)
REFUSE(cuLaunchKernelEx)
REFUSE(cuLibraryGetKernel)
REFUSE(cuLibraryLoadData)
REFUSE(cuLibraryLoadFromFile)
REFUSE(cuLibraryUnload)
REFUSE(cuLinkAddData)
REFUSE(cuLinkComplete)
REFUSE(cuLinkCreate)
REFUSE(cuLinkDestroy)
REFUSE(cuOccupancyMaxPotentialClusterSize)
REFUSE(cuStreamGetCtx)

// What a shared library of attn exports: the functions and classes that are marked with ATTN_API,
// and nothing else. All code is compiled with hidden visibility, so that no program comes to depend
// on an internal function and the dynamic linker looks up few names. A class passes its visibility
// on to what is nested in it; ATTN_HIDDEN keeps its private parts inside.
#pragma once

#if defined(__GNUC__)
#define ATTN_API __attribute__((visibility("default")))
#define ATTN_HIDDEN __attribute__((visibility("hidden")))
#else
#define ATTN_API
#define ATTN_HIDDEN
#endif

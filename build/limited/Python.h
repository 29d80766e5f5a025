/* Stands before Python's own header in the search path, so that the extension is built against the limited API of
 * Python 3.8: one file serves every later version (PEP 384).
 *
 * Below is what gopy's and pybindgen's generated code names beyond that API, in helpers that nothing of ours calls.
 */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x03080000
#endif
#define PY_SSIZE_T_CLEAN
#include_next <Python.h>

#ifndef RAY_ZEROCOPY_LIMITED
#define RAY_ZEROCOPY_LIMITED

typedef struct {
	double real, imag;
} Py_complex;

static inline Py_complex PyComplex_AsCComplex(PyObject *o) {
	Py_complex c = {PyComplex_RealAsDouble(o), PyComplex_ImagAsDouble(o)};
	return c;
}

typedef struct PyAsyncMethods PyAsyncMethods; /* in a typedef of pybindgen's */

#define PyMethod_Check(o) 0

#endif

// Package mem turns addresses into slices and back. It is the only package of this project that imports unsafe, but for
// torch, which calls C++.
//
// The memory belongs to the caller, as a rule to Python or to a mapping: nothing here keeps it alive, and
// nothing can tell whether an address is valid. A view must not outlive the call that was given the address.
package mem

import (
	"fmt"
	"math"
	"unsafe"
)

// Addresses travel as int64, so a pointer has to be as wide as one.
const _ uintptr = 1 << 63

// Bytes returns a view of the n bytes at addr, nil for none.
func Bytes(addr, n int64) []byte {
	return view[byte](addr, n)
}

// Int32s returns a view of the n integers at addr, nil for none.
func Int32s(addr, n int64) []int32 {
	return view[int32](addr, n)
}

// Int64s returns a view of the n integers at addr, nil for none.
func Int64s(addr, n int64) []int64 {
	return view[int64](addr, n)
}

// Address returns where the elements of s lie, 0 for a nil slice.
//
// It does not keep s alive, and a slice that only Go knows may move while it is on a stack: pin it (runtime.Pinner)
// where the address goes to the system.
func Address[T byte | int64](s []T) int64 {
	return int64(uintptr(unsafe.Pointer(unsafe.SliceData(s))))
}

// As returns bytes as elements of another type, which have no pointers and may have any bits; nil and false if the bytes
// do not lie where such elements may lie, or end within one.
func As[T any](bytes []byte) ([]T, bool) {
	size := int(unsafe.Sizeof(*new(T)))
	if len(bytes)%size != 0 || Address(bytes)%int64(unsafe.Alignof(*new(T))) != 0 {
		return nil, false
	}
	if len(bytes) == 0 {
		return nil, true
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), len(bytes)/size), true
}

// view reads the address as a pointer, bit for bit. A plain unsafe.Pointer(uintptr(addr)) does the same, but go
// vet takes it for arithmetic with a pointer into Go's own memory, which this is not.
func view[T any](addr, n int64) []T {
	if n == 0 {
		return nil
	}
	// unsafe.Slice panics as well, but in a build with checks of pointers (-race) it ends the process.
	if size := int64(unsafe.Sizeof(*new(T))); n < 0 || n > math.MaxInt64/size {
		panic(fmt.Sprintf("a view of %d elements of %d bytes", n, size))
	}
	return unsafe.Slice((*T)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), n)
}

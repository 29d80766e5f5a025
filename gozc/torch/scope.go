//go:build gotorch

package torch

// #cgo CFLAGS: -I${SRCDIR}
// #cgo LDFLAGS: -lcgotorch
// #include "cpp/operations.h"
import "C"

import (
	"runtime"
	"strings"
	"unsafe"

	"github.com/wangkuiyi/gotorch"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
)

// A Tensor belongs to a Scope, and ends with it.
type Tensor struct {
	inner gotorch.Tensor
	scope *Scope
}

// A Scope owns the tensors that are made in it, and frees them when it ends. Go's collector cannot: it sees eight bytes of a
// tensor, whatever libtorch has behind them, so it would hardly ever run; and gotorch lets it free the operands of a call
// that has begun. A Scope is for one goroutine at a time.
//
// Its operations are libtorch's of the same names. None of them writes into an operand. They panic where libtorch fails, and
// Do turns that into an error, so that a model reads as it does in Python.
type Scope struct {
	made  []gotorch.Tensor
	pins  runtime.Pinner // of weights that lie in Go's own memory
	ended bool
}

// failure is what operations panic with.
type failure struct{ error }

// Do gives work a Scope, and ends it afterwards. What work is to return has to be read from its tensors before: see Read.
//
// A program that computes again and again does so on a few threads of the system's (runtime.LockOSThread): see the caveats.
func Do(work func(*Scope) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	C.gozc_init_threads()
	scope := new(Scope)
	defer scope.end()
	return scope.try(work)
}

// try returns what work returns, or the error with which an operation failed in it.
func (s *Scope) try(work func(*Scope) error) (err error) {
	defer func() {
		switch caught := recover().(type) {
		case nil:
		case failure:
			err = caught.error
		default:
			panic(caught)
		}
	}()
	return work(s)
}

func (s *Scope) end() {
	for _, each := range s.made {
		C.gozc_free(C.gozc_tensor(*each.T))
	}
	s.pins.Unpin()
	s.made, s.ended = nil, true
}

// call runs an operation on operands, and has the scope own what it returns.
func (s *Scope) call(operation func() gotorch.Tensor, operands ...Tensor) Tensor {
	if s.ended {
		panic("torch: an operation in a Scope that has ended")
	}
	for _, each := range operands {
		each.live()
	}
	result := native(operation)
	runtime.SetFinalizer(result.T, nil) // gotorch's would free it once more
	s.made = append(s.made, result)
	runtime.KeepAlive(operands) // whose scopes may be somebody else's
	return Tensor{result, s}
}

// native runs what gotorch panics in with a text.
func native[T any](operation func() T) T {
	defer func() {
		if caught := recover(); caught != nil {
			said, text := caught.(string)
			if !text {
				panic(caught)
			}
			said, _, _ = strings.Cut(said, "\nException raised from") // libtorch's own stack
			panic(failure{kind.Of(ErrTorch, "libtorch: %s", strings.Join(strings.Fields(said), " "))})
		}
	}()
	return operation()
}

// new is call for an operation of cpp/operations.h.
func (s *Scope) new(operation func(*C.gozc_tensor) *C.char, operands ...Tensor) Tensor {
	return s.call(func() gotorch.Tensor {
		made := new(unsafe.Pointer)
		gotorch.MustNil(unsafe.Pointer(operation((*C.gozc_tensor)(made))))
		return gotorch.Tensor{T: made}
	}, operands...)
}

func (t Tensor) c() C.gozc_tensor { return C.gozc_tensor(*t.inner.T) }

// numbers gives C a list, which may be empty.
func numbers(list []int64) (*C.int64_t, C.int64_t) {
	return (*C.int64_t)(unsafe.SliceData(list)), C.int64_t(len(list))
}

// live panics where the memory of the tensor is others' by now.
func (t Tensor) live() {
	if t.scope == nil {
		panic("torch: the zero Tensor, where there has to be one")
	}
	if t.scope.ended {
		panic("torch: a tensor of a Scope that has ended")
	}
}

// Shape returns the lengths of the tensor's dimensions.
func (t Tensor) Shape() []int64 {
	t.live()
	defer runtime.KeepAlive(t.scope)
	return native(t.inner.Shape)
}

// Read returns a copy of the tensor's elements, in order, as float32.
func (t Tensor) Read() []float32 {
	length := int64(1)
	for _, n := range t.Shape() {
		length *= n
	}
	values := make([]float32, length)
	native(func() any {
		gotorch.MustNil(unsafe.Pointer(C.gozc_read(t.c(), (*C.float)(unsafe.SliceData(values)), C.int64_t(length))))
		return nil
	})
	runtime.KeepAlive(t.scope)
	return values
}

// Over gives a tensor over a weight's own bytes, without a copy. They have to stay until the scope ends.
func (s *Scope) Over(weight Weight) Tensor {
	dtype, known := dtypes[weight.Dtype]
	if !known {
		panic(failure{kind.Of(ErrDtype, "tensor %q is %s, which gotorch does not know", weight.Name, weight.Dtype)})
	}
	if err := weight.check(); err != nil {
		panic(failure{err})
	}
	data := unsafe.Pointer(unsafe.SliceData(weight.Bytes))
	if data != nil {
		s.pins.Pin(data)
	}
	shape, dimensions := numbers(weight.Shape)
	stride, _ := numbers(weight.Stride)
	return s.new(func(result *C.gozc_tensor) *C.char {
		return C.gozc_over(data, C.int8_t(dtype), shape, stride, dimensions, result)
	})
}

// Copied gives a tensor of its own with these elements, in at least one dimension.
func Copied[T float32 | int64 | bool](s *Scope, values []T, shape ...int64) Tensor {
	var dtype int8
	switch any(values).(type) {
	case []float32:
		dtype = gotorch.Float
	case []int64:
		dtype = gotorch.Long
	default:
		dtype = gotorch.Bool
	}
	count := int64(1)
	for _, n := range shape {
		count *= n
	}
	if count != int64(len(values)) || len(shape) == 0 {
		panic(failure{kind.Of(ErrInput, "%d values for a tensor of shape %v", len(values), shape)})
	}
	return s.call(func() gotorch.Tensor { return gotorch.FromBlob(unsafe.Pointer(unsafe.SliceData(values)), dtype, shape) })
}

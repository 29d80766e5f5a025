//go:build gotorch

package torch

import (
	"math"
	"slices"

	"github.com/wangkuiyi/gotorch"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// A Weight is a named tensor in memory that is not to be copied. Its bytes have to stay as long as a model uses them.
type Weight struct {
	Name   string
	Dtype  string // torch's name without the prefix: float32
	Shape  []int64
	Stride []int64 // in elements, as long as Shape
	Bytes  []byte  // from the first element to the end of the last one
}

// Weights returns the named tensors of an image, over its mapping.
func Weights(model *image.Image) []Weight {
	var found []Weight
	for _, each := range model.Tensors() {
		found = append(found, Weight{each.Name, each.Dtype, each.Shape, each.Stride, each.Bytes()})
	}
	return found
}

// check tells whether all elements lie in the bytes, and where elements of their size may lie.
func (w Weight) check() error {
	size, _ := format.ElementSize(w.Dtype)
	last, empty, whole := int64(0), false, len(w.Shape) == len(w.Stride)
	for i := 0; whole && i < len(w.Shape); i++ {
		n, step := w.Shape[i], w.Stride[i]
		whole = n >= 0 && step >= 0 && (n < 2 || step <= (math.MaxInt64-last)/(n-1))
		if empty = empty || n == 0; whole && n > 1 {
			last += (n - 1) * step
		}
	}
	if !whole || !empty && last >= int64(len(w.Bytes))/size {
		return kind.Of(ErrModel, "%q has %d bytes, and its shape %v with stride %v reaches beyond", w.Name, len(w.Bytes), w.Shape, w.Stride)
	}
	if mem.Address(w.Bytes)%size != 0 {
		return kind.Of(ErrModel, "%q lies at an address that is no multiple of %d, where no %s may lie", w.Name, size, w.Dtype)
	}
	return nil
}

// dtypes has those that gotorch has names for, with libtorch's number for the one that it lacks.
var dtypes = map[string]int8{
	"uint8": gotorch.Byte, "int8": gotorch.Char, "int16": gotorch.Short, "int32": gotorch.Int, "int64": gotorch.Long,
	"float16": gotorch.Half, "float32": gotorch.Float, "float64": gotorch.Double, "complex32": gotorch.ComplexHalf,
	"complex64": gotorch.ComplexFloat, "complex128": gotorch.ComplexDouble, "bool": gotorch.Bool, "bfloat16": 15,
}

// computed are the dtypes in which models run: their results are given as float32, without a loss.
var computed = []string{"float32", "float16", "bfloat16"}

// checkDtypes returns an error unless all are of one dtype that models run in.
func checkDtypes(weights []Weight) (string, error) {
	dtype := weights[0].Dtype
	if !slices.Contains(computed, dtype) {
		return "", kind.Of(ErrDtype, "%q is %s: models run in float32, float16 or bfloat16", weights[0].Name, dtype)
	}
	for _, each := range weights {
		if each.Dtype != dtype {
			return "", kind.Of(ErrDtype, "%q is %s and %q is %s: a model runs in one dtype", weights[0].Name, dtype, each.Name, each.Dtype)
		}
	}
	return dtype, nil
}

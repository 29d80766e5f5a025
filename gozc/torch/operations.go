//go:build gotorch

package torch

// #include "cpp/operations.h"
import "C"

import (
	"github.com/wangkuiyi/gotorch"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
)

// Linear is torch.nn.functional.linear. Without a bias, give the zero Tensor for it.
//
// gotorch's adds the bias to the product of three dimensions afterwards, which rounds otherwise than Python's.
func (s *Scope) Linear(input, weight, bias Tensor) Tensor {
	operands, biased := optional([]Tensor{input, weight}, bias)
	return s.new(func(result *C.gozc_tensor) *C.char { return C.gozc_linear(input.c(), weight.c(), biased, result) }, operands...)
}

// Embedding is torch.nn.functional.embedding: the rows of weight that index names, in index's shape.
func (s *Scope) Embedding(index, weight Tensor) Tensor {
	shape := append(index.Shape(), weight.Shape()[1:]...)
	return s.Reshape(s.IndexSelect(weight, 0, s.Reshape(index, -1)), shape...)
}

// Add is torch.add.
func (s *Scope) Add(a, b Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Add(a.inner, b.inner, 1) }, a, b)
}

// Mul is torch.mul.
func (s *Scope) Mul(a, b Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Mul(a.inner, b.inner) }, a, b)
}

// Div is torch.div.
func (s *Scope) Div(a, b Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Div(a.inner, b.inner) }, a, b)
}

// Sum is torch.sum over one dimension, which is dropped.
func (s *Scope) Sum(input Tensor, dimension int) Tensor {
	return s.call(func() gotorch.Tensor {
		return gotorch.Sum(input.inner, map[string]any{"dim": dimension})
	}, input)
}

// IndexSelect is torch.index_select: those of a dimension that index names.
func (s *Scope) IndexSelect(input Tensor, dimension int64, index Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.IndexSelect(input.inner, dimension, index.inner) }, input, index)
}

// Transpose is torch.transpose.
func (s *Scope) Transpose(input Tensor, first, second int64) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Transpose(input.inner, first, second) }, input)
}

// Reshape is torch.reshape.
func (s *Scope) Reshape(input Tensor, shape ...int64) Tensor {
	list, dimensions := numbers(shape)
	return s.new(func(result *C.gozc_tensor) *C.char { return C.gozc_reshape(input.c(), list, dimensions, result) }, input)
}

// To is torch.Tensor.to, for a dtype.
func (s *Scope) To(input Tensor, dtype string) Tensor {
	number, known := dtypes[dtype]
	if !known {
		panic(failure{kind.Of(ErrDtype, "gotorch does not know %s", dtype)})
	}
	return s.call(func() gotorch.Tensor { return input.inner.CastTo(number) }, input)
}

// ReLU is torch.relu.
func (s *Scope) ReLU(input Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Relu(input.inner) }, input)
}

// Tanh is torch.tanh.
func (s *Scope) Tanh(input Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Tanh(input.inner) }, input)
}

// Sigmoid is torch.sigmoid.
func (s *Scope) Sigmoid(input Tensor) Tensor {
	return s.call(func() gotorch.Tensor { return gotorch.Sigmoid(input.inner) }, input)
}

// GELU is torch.nn.functional.gelu; with tanh, its approximate="tanh".
func (s *Scope) GELU(input Tensor, tanh bool) Tensor {
	return s.new(func(result *C.gozc_tensor) *C.char { return C.gozc_gelu(input.c(), C.bool(tanh), result) }, input)
}

// LayerNorm is torch.nn.functional.layer_norm over as many of the last dimensions as weight has.
func (s *Scope) LayerNorm(input, weight, bias Tensor, eps float64) Tensor {
	return s.new(func(result *C.gozc_tensor) *C.char {
		return C.gozc_layer_norm(input.c(), weight.c(), bias.c(), C.double(eps), result)
	}, input, weight, bias)
}

// Attention is torch.nn.functional.scaled_dot_product_attention. The mask, of booleans, says what may be attended to; without
// one, give the zero Tensor.
func (s *Scope) Attention(query, key, value, mask Tensor) Tensor {
	operands, masked := optional([]Tensor{query, key, value}, mask)
	return s.new(func(result *C.gozc_tensor) *C.char {
		return C.gozc_attention(query.c(), key.c(), value.c(), masked, result)
	}, operands...)
}

// Normalize is torch.nn.functional.normalize: each vector along a dimension becomes one of length 1.
func (s *Scope) Normalize(input Tensor, dimension int64) Tensor {
	return s.new(func(result *C.gozc_tensor) *C.char { return C.gozc_normalize(input.c(), C.int64_t(dimension), result) }, input)
}

// optional adds an operand that may be the zero Tensor, NULL to C.
func optional(operands []Tensor, last Tensor) ([]Tensor, C.gozc_tensor) {
	if last.scope == nil {
		return operands, nil
	}
	return append(operands, last), last.c()
}

// activations are those that models name, by torch's names and those of config.json.
var activations = map[string]func(*Scope, Tensor) Tensor{
	"relu":              (*Scope).ReLU,
	"tanh":              (*Scope).Tanh,
	"sigmoid":           (*Scope).Sigmoid,
	"gelu":              func(s *Scope, input Tensor) Tensor { return s.GELU(input, false) },
	"gelu_pytorch_tanh": func(s *Scope, input Tensor) Tensor { return s.GELU(input, true) },
}

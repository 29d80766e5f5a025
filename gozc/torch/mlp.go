//go:build gotorch

package torch

import (
	"maps"
	"slices"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
)

// An MLP is linear layers with an activation between them: torch.nn.Sequential(Linear, ReLU, Linear), or whatever has their
// weights in its order. It can be used by several goroutines, which it answers one after the other.
type MLP struct {
	*module
	layers  []linear
	between func(*Scope, Tensor) Tensor
	in      int64
}

// A linear is a layer's weight, out x in, and its bias, the zero Tensor if there is none.
type linear struct{ weight, bias Tensor }

// Activations returns the names of the activations that models can have.
func Activations() []string { return slices.Sorted(maps.Keys(activations)) }

// NewMLP makes one of the weights of linear layers in their order, over their bytes. The activation is not in the weights: it
// is one of Activations.
//
// The error is an ErrModel, ErrDtype or ErrConfig.
func NewMLP(weights []Weight, activation string) (*MLP, error) {
	between, known := activations[activation]
	if !known {
		return nil, kind.Of(ErrConfig, "%q is no activation; there are %s", activation, strings.Join(Activations(), ", "))
	}
	type layer struct{ weight, bias *Weight }
	var found []layer
	for i := range weights {
		each := &weights[i]
		name, isBias := strings.CutSuffix(each.Name, "bias")
		switch n := len(found); {
		case strings.HasSuffix(each.Name, "weight") && len(each.Shape) == 2:
			if n > 0 && found[n-1].weight.Shape[0] != each.Shape[1] {
				return nil, kind.Of(ErrModel, "%q takes %d values, and %q before it gives %d",
					each.Name, each.Shape[1], found[n-1].weight.Name, found[n-1].weight.Shape[0])
			}
			found = append(found, layer{weight: each})
		case isBias && n > 0 && found[n-1].weight.Name == name+"weight" && len(each.Shape) == 1 &&
			each.Shape[0] == found[n-1].weight.Shape[0]:
			found[n-1].bias = each
		default:
			return nil, kind.Of(ErrModel, "%q of shape %v is neither the weight of a linear layer nor the bias of the one before it",
				each.Name, each.Shape)
		}
	}
	if len(found) == 0 {
		return nil, kind.Of(ErrModel, "there are no tensors")
	}
	dtype, err := checkDtypes(weights)
	if err != nil {
		return nil, err
	}
	m := &MLP{between: between, in: found[0].weight.Shape[1]}
	m.module, err = newModule(dtype, func(s *Scope) error {
		for _, each := range found {
			made := linear{weight: s.Over(*each.weight)}
			if each.bias != nil {
				made.bias = s.Over(*each.bias)
			}
			m.layers = append(m.layers, made)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Forward returns a row of outputs for each row of inputs.
//
// The error is an ErrInput, ErrTorch or ErrClosed.
func (m *MLP) Forward(inputs [][]float32) ([][]float32, error) {
	flat := make([]float32, 0, int64(len(inputs))*m.in)
	for i, row := range inputs {
		if int64(len(row)) != m.in {
			return nil, kind.Of(ErrInput, "row %d has %d values, and the model takes %d", i, len(row), m.in)
		}
		flat = append(flat, row...)
	}
	if len(inputs) == 0 {
		return [][]float32{}, nil
	}
	var outputs [][]float32
	err := m.run(func(s *Scope) error {
		x := s.To(Copied(s, flat, int64(len(inputs)), m.in), m.dtype)
		for i, layer := range m.layers {
			if i > 0 {
				x = m.between(s, x)
			}
			x = s.Linear(x, layer.weight, layer.bias)
		}
		outputs = rows(x.Read(), len(inputs))
		return nil
	})
	return outputs, err
}

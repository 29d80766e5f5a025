//go:build gotorch

package torch

import (
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
)

// parts are the weights of a model by name, of which tensors are made.
type parts struct {
	scope   *Scope
	prefix  string
	dtype   string
	weights map[string]Weight
	used    map[string]bool
}

// left returns an error for weights within the model that it has no place for: it is another one then, or has been changed.
func (p *parts) left(weights []Weight) error {
	for _, each := range weights {
		name, within := strings.CutPrefix(each.Name, p.prefix)
		part, rest, _ := strings.Cut(name, ".")
		switch {
		case !within || part != "embeddings" && part != "encoder" || p.used[each.Name]:
		case part == "embeddings" && (rest == "position_ids" || rest == "token_type_ids"): // buffers that only count
		default:
			return kind.Of(ErrModel, "%q is no part of the BERT that its configuration describes", each.Name)
		}
	}
	return nil
}

func (p *parts) has(beginning string) bool {
	for name := range p.weights {
		if strings.HasPrefix(name, p.prefix+beginning) {
			return true
		}
	}
	return false
}

// rows returns the first length of a tensor; 0 where there is none.
func (p *parts) rows(name string) int64 {
	if shape := p.weights[p.prefix+name].Shape; len(shape) > 0 {
		return shape[0]
	}
	return 0
}

// tensor gives the tensor of a name, of which the shape is known, but for lengths that are -1.
func (p *parts) tensor(name string, shape ...int64) Tensor {
	weight, there := p.weights[p.prefix+name]
	if !there {
		panic(failure{kind.Of(ErrModel, "there is no tensor %q", p.prefix+name)})
	}
	fits := len(weight.Shape) == len(shape)
	for i := range shape {
		fits = fits && (shape[i] == weight.Shape[i] || shape[i] < 0 && weight.Shape[i] > 0)
	}
	if !fits {
		panic(failure{kind.Of(ErrModel, "%q is of shape %v, expected %v (-1: any)", weight.Name, weight.Shape, shape)})
	}
	if weight.Dtype != p.dtype {
		panic(failure{kind.Of(ErrDtype, "%q is %s, and %q is %s: a model runs in one dtype", weight.Name, weight.Dtype, p.prefix+words, p.dtype)})
	}
	p.used[weight.Name] = true
	return p.scope.Over(weight)
}

func (p *parts) linear(name string, out, in int64) linear {
	return linear{p.tensor(name+".weight", out, in), p.tensor(name+".bias", out)}
}

func (p *parts) norm(name string, width int64) norm {
	return norm{p.tensor(name+".weight", width), p.tensor(name+".bias", width)}
}

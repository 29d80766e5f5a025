//go:build gotorch

package torch

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
)

// An Encoder is BERT, as transformers has it: tokens in, and, for each sentence, a vector out. It can be used by several
// goroutines, which it answers one after the other.
type Encoder struct {
	*module
	config                    Config
	activation                func(*Scope, Tensor) Tensor
	hidden, words, longest    int64
	word, position, tokenType Tensor
	norm                      norm
	layers                    []layer
}

type norm struct{ weight, bias Tensor }

type layer struct {
	query, key, value, attended, wide, narrow linear
	afterAttention, afterAll                  norm
}

const words = "embeddings.word_embeddings.weight"

// IsEncoder tells whether weights have BERT's word embeddings.
func IsEncoder(weights []Weight) bool {
	return slices.ContainsFunc(weights, func(each Weight) bool { return hasWords(each.Name) })
}

func hasWords(name string) bool { return name == words || strings.HasSuffix(name, "."+words) }

// NewEncoder makes one of the weights of a BertModel, over their bytes. They may be part of a larger model, a pipeline for
// example: what lies beside the BertModel is left alone, and its pooler is not used. RoBERTa's weights have the same names,
// and it counts positions otherwise: it is none.
//
// The error is an ErrModel, ErrDtype or ErrConfig.
func NewEncoder(weights []Weight, config Config) (*Encoder, error) {
	prefixes := []string{}
	for _, each := range weights {
		if hasWords(each.Name) {
			prefixes = append(prefixes, strings.TrimSuffix(each.Name, words))
		}
	}
	if len(prefixes) != 1 {
		return nil, kind.Of(ErrModel, "%d tensors are called %s, expected one: that of a BertModel", len(prefixes), words)
	}
	e := &Encoder{config: config}
	found := parts{prefix: prefixes[0], weights: map[string]Weight{}, used: map[string]bool{}}
	for _, each := range weights {
		found.weights[each.Name] = each
	}
	table := found.weights[found.prefix+words]
	positions := found.weights[found.prefix+"embeddings.position_embeddings.weight"]
	if len(table.Shape) != 2 || len(positions.Shape) != 2 {
		return nil, kind.Of(ErrModel, "word and position embeddings are of shapes %v and %v, expected matrices", table.Shape, positions.Shape)
	}
	e.words, e.hidden, e.longest = table.Shape[0], table.Shape[1], positions.Shape[0]
	if config.MaxTokens > 0 {
		e.longest = min(e.longest, int64(config.MaxTokens))
	}
	var known bool
	if e.activation, known = activations[config.Activation]; !known {
		return nil, kind.Of(ErrConfig, "%q is no activation; there are %s", config.Activation, strings.Join(Activations(), ", "))
	}
	switch {
	case config.Heads < 1 || e.hidden%config.Heads != 0:
		return nil, kind.Of(ErrConfig, "%d heads, which share %d values", config.Heads, e.hidden)
	case config.Pooling != "mean" && config.Pooling != "cls":
		return nil, kind.Of(ErrConfig, "pooling is %q, expected mean or cls", config.Pooling)
	}
	dtype, err := checkDtypes([]Weight{table})
	if err != nil {
		return nil, err
	}
	e.module, err = newModule(dtype, func(s *Scope) error {
		found.scope, found.dtype = s, dtype
		e.build(&found)
		return found.left(weights)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Encoder) build(found *parts) {
	e.word = found.tensor(words, e.words, e.hidden)
	e.position = found.tensor("embeddings.position_embeddings.weight", -1, e.hidden)
	e.tokenType = found.tensor("embeddings.token_type_embeddings.weight", -1, e.hidden)
	e.norm = found.norm("embeddings.LayerNorm", e.hidden)
	for {
		at := "encoder.layer." + strconv.Itoa(len(e.layers)) + "."
		if n := e.config.Layers; n > 0 && int64(len(e.layers)) == n || n == 0 && !found.has(at) {
			break
		}
		wide := found.rows(at + "intermediate.dense.weight")
		e.layers = append(e.layers, layer{
			query:          found.linear(at+"attention.self.query", e.hidden, e.hidden),
			key:            found.linear(at+"attention.self.key", e.hidden, e.hidden),
			value:          found.linear(at+"attention.self.value", e.hidden, e.hidden),
			attended:       found.linear(at+"attention.output.dense", e.hidden, e.hidden),
			afterAttention: found.norm(at+"attention.output.LayerNorm", e.hidden),
			wide:           found.linear(at+"intermediate.dense", wide, e.hidden),
			narrow:         found.linear(at+"output.dense", e.hidden, wide),
			afterAll:       found.norm(at+"output.LayerNorm", e.hidden),
		})
	}
}

// Width returns how many values the vector of a sentence has.
func (e *Encoder) Width() int { return int(e.hidden) }

// MaxTokens returns how many tokens a sentence may have.
func (e *Encoder) MaxTokens() int { return int(e.longest) }

// Encode returns a vector for each sentence, whose tokens are given with those that begin and end it ([CLS], [SEP]).
//
// The error is an ErrInput, ErrTorch or ErrClosed.
func (e *Encoder) Encode(sentences [][]int64) ([][]float32, error) {
	longest := 0
	for i, sentence := range sentences {
		if len(sentence) == 0 || int64(len(sentence)) > e.longest {
			return nil, kind.Of(ErrInput, "sentence %d has %d tokens, expected 1 to %d", i, len(sentence), e.longest)
		}
		for _, token := range sentence {
			if token < 0 || token >= e.words {
				return nil, kind.Of(ErrInput, "sentence %d has the token %d, expected 0 to %d", i, token, e.words-1)
			}
		}
		longest = max(longest, len(sentence))
	}
	if len(sentences) == 0 {
		return [][]float32{}, nil
	}
	tokens, there, padded := make([]int64, len(sentences)*longest), make([]bool, len(sentences)*longest), false
	for i, sentence := range sentences {
		copy(tokens[i*longest:], sentence)
		for j := range sentence {
			there[i*longest+j] = true
		}
		padded = padded || len(sentence) < longest
	}
	var vectors [][]float32
	err := e.run(func(s *Scope) error {
		batch, length := int64(len(sentences)), int64(longest)
		mask := Copied(s, there, batch, 1, 1, length)
		var attended Tensor // a mask that hides nothing would have libtorch take another way, with other roundings
		if padded {
			attended = mask
		}
		states := e.states(s, Copied(s, tokens, batch, length), attended)
		vectors = rows(e.pool(s, states, s.Reshape(mask, batch, length, 1)).Read(), len(sentences))
		return nil
	})
	return vectors, err
}

// states gives the last layer's vectors: batch x length x hidden.
func (e *Encoder) states(s *Scope, tokens, mask Tensor) Tensor {
	shape := tokens.Shape()
	places := make([]int64, shape[1])
	for i := range places {
		places[i] = int64(i)
	}
	positions := s.IndexSelect(e.position, 0, Copied(s, places, shape[1]))
	types := s.IndexSelect(e.tokenType, 0, Copied(s, make([]int64, 1), 1))
	x := s.Add(s.Add(s.Embedding(tokens, e.word), types), positions)
	x = e.normed(s, x, e.norm)
	for _, layer := range e.layers {
		x = e.normed(s, s.Add(e.attention(s, x, layer, mask), x), layer.afterAttention)
		wide := e.activation(s, s.Linear(x, layer.wide.weight, layer.wide.bias))
		x = e.normed(s, s.Add(s.Linear(wide, layer.narrow.weight, layer.narrow.bias), x), layer.afterAll)
	}
	return x
}

func (e *Encoder) normed(s *Scope, x Tensor, by norm) Tensor {
	return s.LayerNorm(x, by.weight, by.bias, e.config.Eps)
}

func (e *Encoder) attention(s *Scope, x Tensor, layer layer, mask Tensor) Tensor {
	shape := x.Shape()
	heads := func(by linear) Tensor {
		split := s.Reshape(s.Linear(x, by.weight, by.bias), shape[0], shape[1], e.config.Heads, -1)
		return s.Transpose(split, 1, 2)
	}
	found := s.Attention(heads(layer.query), heads(layer.key), heads(layer.value), mask)
	found = s.Reshape(s.Transpose(found, 1, 2), shape...)
	return s.Linear(found, layer.attended.weight, layer.attended.bias)
}

// pool makes one vector of each sentence's.
func (e *Encoder) pool(s *Scope, states, mask Tensor) Tensor {
	var vectors Tensor
	if e.config.Pooling == "cls" {
		vectors = s.IndexSelect(states, 1, Copied(s, make([]int64, 1), 1))
		vectors = s.Reshape(vectors, -1, e.hidden)
	} else {
		there := s.To(mask, e.dtype)
		sum := s.Sum(s.To(s.Mul(states, there), "float32"), 1) // in float32, as sentence-transformers adds
		vectors = s.To(s.Div(sum, s.Sum(s.To(there, "float32"), 1)), e.dtype)
	}
	if e.config.Normalize {
		vectors = s.Normalize(vectors, 1)
	}
	return vectors
}

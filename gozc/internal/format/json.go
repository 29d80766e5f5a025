package format

import (
	"encoding/json"
	"fmt"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/tokens"
)

// keys of an entry of the index, in the order of docs/format.md.
var keys = []string{"name", "dtype", "shape", "stride", "segment", "offset", "persistent"}

// parseIndex reads the index's JSON.
func parseIndex(index []byte) ([]Tensor, error) {
	reader, err := tokens.NewReader(index)
	if err != nil {
		return nil, err
	}
	tensors, err := indexReader{reader}.index()
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", reader.InputOffset(), err)
	}
	return tensors, nil
}

type indexReader struct {
	tokens.Reader
}

func (r indexReader) index() ([]Tensor, error) {
	if err := r.Expect(json.Delim('{')); err != nil {
		return nil, err
	}
	if err := r.Expect("tensors"); err != nil {
		return nil, err
	}
	if err := r.Expect(json.Delim('[')); err != nil {
		return nil, err
	}
	var tensors []Tensor
	for r.More() {
		tensor, err := r.tensor()
		if err != nil {
			return nil, fmt.Errorf("tensor %d: %w", len(tensors), err)
		}
		tensors = append(tensors, tensor)
	}
	if err := r.Expect(json.Delim(']')); err != nil {
		return nil, err
	}
	if err := r.Expect(json.Delim('}')); err != nil {
		return nil, err
	}
	return tensors, r.End()
}

func (r indexReader) tensor() (Tensor, error) {
	t := Tensor{Base: -1}
	if err := r.Expect(json.Delim('{')); err != nil {
		return t, err
	}
	seen := make(map[string]bool, len(keys))
	for r.More() {
		key, err := tokens.Next[string](r.Reader)
		if err != nil {
			return t, err
		}
		if seen[key] {
			return t, fmt.Errorf("key %q occurs twice", key)
		}
		seen[key] = true
		switch key {
		case "name":
			t.Name, err = tokens.Next[string](r.Reader)
		case "dtype":
			t.Dtype, err = tokens.Next[string](r.Reader)
		case "shape":
			t.Shape, err = tokens.List(r.Reader, r.Integer)
		case "stride":
			t.Stride, err = tokens.List(r.Reader, r.Integer)
		case "segment":
			t.Segment, err = r.Integer()
		case "offset":
			t.Offset, err = r.Integer()
		case "base":
			t.Base, err = r.Integer()
			if err == nil && t.Base < 0 {
				err = fmt.Errorf("found %d, expected none or a number from 0 on", t.Base)
			}
		case "persistent":
			t.Persistent, err = tokens.Next[bool](r.Reader)
		default:
			err = fmt.Errorf("expected one of %v, or base", keys)
		}
		if err != nil {
			return t, fmt.Errorf("key %q: %w", key, err)
		}
	}
	for _, key := range keys {
		if !seen[key] {
			return t, fmt.Errorf("key %q is missing", key)
		}
	}
	return t, r.Expect(json.Delim('}'))
}

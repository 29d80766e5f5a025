package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// keys of an entry of the index, in the order of docs/format.md.
var keys = []string{"name", "dtype", "shape", "stride", "segment", "offset", "persistent"}

// parseIndex reads the index's JSON. json.Unmarshal takes keys in any case, keys that occur twice, missing ones
// and null: two readers could then see different tensors in the same bytes. So the tokens are read one by one.
func parseIndex(index []byte) ([]Tensor, error) {
	if !utf8.Valid(index) {
		return nil, errors.New("not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(index))
	decoder.UseNumber()
	r := indexReader{decoder}
	tensors, err := r.index()
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", decoder.InputOffset(), err)
	}
	return tensors, nil
}

type indexReader struct {
	*json.Decoder
}

func (r indexReader) index() ([]Tensor, error) {
	if err := r.expect(json.Delim('{')); err != nil {
		return nil, err
	}
	if err := r.expect("tensors"); err != nil {
		return nil, err
	}
	if err := r.expect(json.Delim('[')); err != nil {
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
	if err := r.expect(json.Delim(']')); err != nil {
		return nil, err
	}
	if err := r.expect(json.Delim('}')); err != nil {
		return nil, err
	}
	if _, err := r.Token(); err != io.EOF {
		return nil, errors.New("more follows after the end")
	}
	return tensors, nil
}

func (r indexReader) tensor() (Tensor, error) {
	var t Tensor
	if err := r.expect(json.Delim('{')); err != nil {
		return t, err
	}
	seen := make(map[string]bool, len(keys))
	for r.More() {
		key, err := token[string](r)
		if err != nil {
			return t, err
		}
		if seen[key] {
			return t, fmt.Errorf("key %q occurs twice", key)
		}
		seen[key] = true
		switch key {
		case "name":
			t.Name, err = token[string](r)
		case "dtype":
			t.Dtype, err = token[string](r)
		case "shape":
			t.Shape, err = r.integers()
		case "stride":
			t.Stride, err = r.integers()
		case "segment":
			t.Segment, err = r.integer()
		case "offset":
			t.Offset, err = r.integer()
		case "persistent":
			t.Persistent, err = token[bool](r)
		default:
			err = fmt.Errorf("expected one of %v", keys)
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
	return t, r.expect(json.Delim('}'))
}

func (r indexReader) integers() ([]int64, error) {
	if err := r.expect(json.Delim('[')); err != nil {
		return nil, err
	}
	numbers := []int64{}
	for r.More() {
		n, err := r.integer()
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, r.expect(json.Delim(']'))
}

// integer takes no fraction and no exponent: 1e3 is a float to Python.
func (r indexReader) integer() (int64, error) {
	number, err := token[json.Number](r)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(number.String(), 10, 64)
}

func (r indexReader) expect(want json.Token) error {
	got, err := r.Token()
	if err == nil && got != want {
		err = fmt.Errorf("found %v, expected %v", got, want)
	}
	return err
}

func token[T any](r indexReader) (T, error) {
	got, err := r.Token()
	value, ok := got.(T)
	if err == nil && !ok {
		err = fmt.Errorf("found %v, expected a %T", got, value)
	}
	return value, err
}

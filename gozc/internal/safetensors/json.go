package safetensors

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/tokens"
)

const (
	metadataKey = "__metadata__"

	// maxDepth is how deeply lists and objects may lie in each other, the header included.
	maxDepth = 127
)

// parse reads a header's JSON. Of the tensors, only the types of what describes them are checked, and their dtypes.
func parse(text []byte) (Header, error) {
	reader, err := tokens.NewReader(text)
	if err != nil {
		return Header{}, err
	}
	if err := checkSurrogates(text); err != nil {
		return Header{}, err
	}
	header, err := headerReader{reader}.header()
	if err != nil {
		return Header{}, fmt.Errorf("at byte %d: %w", reader.InputOffset(), err)
	}
	return header, nil
}

// checkSurrogates finds an escape such as \ud800 that is no half of a pair: Go's decoder puts another character there.
// A backslash that is not in a string is left for the decoder to find.
func checkSurrogates(text []byte) error {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		switch unit := escapedUnit(text[i:]); {
		case unit < 0xd800 || unit > 0xdfff:
			i++
		case unit < 0xdc00 && isLow(escapedUnit(text[i+6:])):
			i += 11
		default:
			return fmt.Errorf("at byte %d: %s, expected a pair of surrogates", i, text[i:i+6])
		}
	}
	return nil
}

// escapedUnit returns the number in \uXXXX, -1 if the text begins with something else.
func escapedUnit(text []byte) int64 {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return int64(unit)
}

func isLow(unit int64) bool { return 0xdc00 <= unit && unit <= 0xdfff }

type headerReader struct {
	tokens.Reader
}

func (r headerReader) header() (Header, error) {
	header := Header{Metadata: map[string]string{}, Tensors: []Tensor{}}
	if err := r.Expect(json.Delim('{')); err != nil {
		return header, err
	}
	places := map[string]int{}
	described := false
	for r.More() {
		name, err := tokens.Next[string](r.Reader)
		if err != nil {
			return header, err
		}
		if name == metadataKey {
			if described {
				return header, fmt.Errorf("key %.100q occurs twice", name)
			}
			described = true
			if header.Metadata, err = r.metadata(); err != nil {
				return header, fmt.Errorf("key %.100q: %w", name, err)
			}
			continue
		}
		tensor, err := r.tensor()
		if err != nil {
			return header, fmt.Errorf("tensor %.100q: %w", name, err)
		}
		tensor.Name = name
		if place, again := places[name]; again {
			header.Tensors[place] = tensor
		} else {
			places[name] = len(header.Tensors)
			header.Tensors = append(header.Tensors, tensor)
		}
	}
	if err := r.Expect(json.Delim('}')); err != nil {
		return header, err
	}
	return header, r.End()
}

func (r headerReader) metadata() (map[string]string, error) {
	metadata := map[string]string{}
	opened, err := r.Token()
	if err != nil || opened == nil { // null stands for none
		return metadata, err
	}
	if opened != json.Delim('{') {
		return nil, fmt.Errorf("found %.100v, expected an object of strings", opened)
	}
	for r.More() {
		key, err := tokens.Next[string](r.Reader)
		if err != nil {
			return nil, err
		}
		if metadata[key], err = tokens.Next[string](r.Reader); err != nil {
			return nil, fmt.Errorf("key %.100q: %w", key, err)
		}
	}
	return metadata, r.Expect(json.Delim('}'))
}

// keys of a tensor, in the order of a list.
var keys = []string{"dtype", "shape", "data_offsets"}

func (r headerReader) tensor() (Tensor, error) {
	var t Tensor
	opened, err := r.Token()
	if err != nil {
		return t, err
	}
	switch opened {
	case json.Delim('['):
		for _, key := range keys {
			if err := r.field(&t, key); err != nil {
				return t, fmt.Errorf("%s: %w", key, err)
			}
		}
		return t, r.Expect(json.Delim(']'))
	case json.Delim('{'):
	default:
		return t, fmt.Errorf("found %.100v, expected an object", opened)
	}
	seen := make(map[string]bool, len(keys))
	for r.More() {
		key, err := tokens.Next[string](r.Reader)
		if err != nil {
			return t, err
		}
		if seen[key] {
			return t, fmt.Errorf("key %.100q occurs twice", key)
		}
		for _, known := range keys {
			seen[key] = seen[key] || key == known
		}
		if err := r.field(&t, key); err != nil {
			return t, fmt.Errorf("key %.100q: %w", key, err)
		}
	}
	for _, key := range keys {
		if !seen[key] {
			return t, fmt.Errorf("key %.100q is missing", key)
		}
	}
	return t, r.Expect(json.Delim('}'))
}

// field reads the value of a key of a tensor.
func (r headerReader) field(t *Tensor, key string) (err error) {
	switch key {
	case "dtype":
		t.Dtype, err = r.dtype()
	case "shape":
		t.Shape, err = tokens.List(r.Reader, r.Unsigned)
	case "data_offsets":
		var offsets []uint64
		offsets, err = tokens.List(r.Reader, r.Unsigned)
		if err == nil && len(offsets) != 2 {
			err = fmt.Errorf("%d numbers, expected 2", len(offsets))
		}
		if err == nil {
			t.Begin, t.End = offsets[0], offsets[1]
		}
	default:
		const depth = 2 // the header's object and the tensor's are open
		err = r.skip(depth)
	}
	return err
}

// dtype reads a dtype's name, or an object whose only key is one, with null as its value.
func (r headerReader) dtype() (string, error) {
	got, err := r.Token()
	if err != nil {
		return "", err
	}
	name, plain := got.(string)
	if got == json.Delim('{') {
		if name, err = tokens.Next[string](r.Reader); err != nil {
			return "", err
		}
		if err := r.Expect(nil); err != nil {
			return "", err
		}
		if err := r.Expect(json.Delim('}')); err != nil {
			return "", err
		}
		plain = true
	}
	if _, known := elementBits[name]; !plain || !known {
		return "", fmt.Errorf("found %.100v, expected one of the format's, such as F32", got)
	}
	return name, nil
}

// skip reads a value that nobody asks for, in depth lists and objects.
func (r headerReader) skip(depth int) error {
	open := 0
	for {
		got, err := r.Token()
		if err != nil {
			return err
		}
		switch value := got.(type) {
		case json.Delim:
			if value == '[' || value == '{' {
				open++
			} else {
				open--
			}
			if depth+open > maxDepth {
				return fmt.Errorf("nested more than %d deep", maxDepth)
			}
		case json.Number:
			if _, err := value.Float64(); err != nil {
				return err
			}
		}
		if open == 0 {
			return nil
		}
	}
}

// Package tokens reads JSON one token at a time. json.Unmarshal takes keys in any case, keys that occur twice, missing
// ones and null: two readers could then see different things in the same bytes.
package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// A Reader gives the tokens of a text.
type Reader struct {
	*json.Decoder
}

// NewReader returns a reader of a text, which has to be UTF-8.
func NewReader(text []byte) (Reader, error) {
	if !utf8.Valid(text) {
		return Reader{}, errors.New("not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return Reader{decoder}, nil
}

// Expect reads the next token, which has to be this one.
func (r Reader) Expect(want json.Token) error {
	got, err := r.Token()
	if err == nil && got != want {
		err = fmt.Errorf("found %.100v, expected %v", got, want)
	}
	return err
}

// End reads what is left, which has to be nothing.
func (r Reader) End() error {
	if _, err := r.Token(); err != io.EOF {
		return errors.New("more follows after the end")
	}
	return nil
}

// Next reads the next token, which has to be of type T.
func Next[T any](r Reader) (T, error) {
	got, err := r.Token()
	value, ok := got.(T)
	if err == nil && !ok {
		err = fmt.Errorf("found %.100v, expected a %T", got, value)
	}
	return value, err
}

// Integer reads an integer. It takes no fraction and no exponent: 1e3 is a float to Python.
func (r Reader) Integer() (int64, error) {
	number, err := Next[json.Number](r)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(number.String(), 10, 64)
}

// Unsigned reads an integer that is not negative, of up to 64 bits.
func (r Reader) Unsigned() (uint64, error) {
	number, err := Next[json.Number](r)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(number.String(), 10, 64)
}

// List reads a list, each item by the same function.
func List[T any](r Reader, item func() (T, error)) ([]T, error) {
	if err := r.Expect(json.Delim('[')); err != nil {
		return nil, err
	}
	items := []T{}
	for r.More() {
		value, err := item()
		if err != nil {
			return nil, err
		}
		items = append(items, value)
	}
	return items, r.Expect(json.Delim(']'))
}

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// A codec reads the elements of a dtype.
type codec struct {
	size  int
	real  func([]byte) float64 // nil for complex numbers
	show  func([]byte) string
	plain func([]byte) any // for JSON
}

var little = binary.LittleEndian

// codecs has the dtypes whose elements are numbers, by torch's name and, where that differs, by that of safetensors.
var codecs = map[string]codec{
	"bool": {1, func(b []byte) float64 { return min(float64(b[0]), 1) },
		func(b []byte) string { return word(b[0] != 0, false) }, func(b []byte) any { return b[0] != 0 }},
	"uint8":  integers(1, func(b []byte) uint64 { return uint64(b[0]) }),
	"uint16": integers(2, func(b []byte) uint64 { return uint64(little.Uint16(b)) }),
	"uint32": integers(4, func(b []byte) uint64 { return uint64(little.Uint32(b)) }),
	"uint64": integers(8, little.Uint64),
	"int8":   integers(1, func(b []byte) int64 { return int64(int8(b[0])) }),
	"int16":  integers(2, func(b []byte) int64 { return int64(int16(little.Uint16(b))) }),
	"int32":  integers(4, func(b []byte) int64 { return int64(int32(little.Uint32(b))) }),
	"int64":  integers(8, func(b []byte) int64 { return int64(little.Uint64(b)) }),

	"float64":  floats(8, float64At, text.Float),
	"float32":  floats(4, float32At, short),
	"float16":  floats(2, func(b []byte) float64 { return float64(image.Float16(little.Uint16(b)).Float32()) }, short),
	"bfloat16": floats(2, func(b []byte) float64 { return float64(image.BFloat16(little.Uint16(b)).Float32()) }, short),

	"float8_e5m2":     floats(1, func(b []byte) float64 { return float64(image.Float16(uint16(b[0]) << 8).Float32()) }, short),
	"float8_e4m3":     floats(1, float8E4M3, short),
	"float8_e4m3fn":   floats(1, float8E4M3, short),
	"float8_e4m3fnuz": floats(1, func(b []byte) float64 { return float8Unsigned(b[0], 3, 8) }, short),
	"float8_e5m2fnuz": floats(1, func(b []byte) float64 { return float8Unsigned(b[0], 2, 16) }, short),
	"float8_e8m0":     floats(1, float8E8M0, short),
	"float8_e8m0fnu":  floats(1, float8E8M0, short),

	"complex64":  complexes(8, float32At),
	"complex128": complexes(16, float64At),
}

func short(f float64) string { return text.Float32(float32(f)) }

func float64At(b []byte) float64 { return math.Float64frombits(little.Uint64(b)) }

func float32At(b []byte) float64 { return float64(math.Float32frombits(little.Uint32(b))) }

func integers[T int64 | uint64](size int, read func([]byte) T) codec {
	show := func(b []byte) string { return fmt.Sprint(read(b)) }
	return codec{size, func(b []byte) float64 { return float64(read(b)) }, show, func(b []byte) any { return json.Number(show(b)) }}
}

func floats(size int, read func([]byte) float64, show func(float64) string) codec {
	return codec{size, read, func(b []byte) string { return show(read(b)) }, func(b []byte) any { return read(b) }}
}

func complexes(size int, read func([]byte) float64) codec {
	parts := func(b []byte) (float64, float64) { return read(b), read(b[size/2:]) }
	return codec{size, nil, func(b []byte) string {
		re, im := parts(b)
		shown := text.Float(im)
		if shown[0] != '-' {
			shown = "+" + shown
		}
		return text.Float(re) + shown + "j"
	}, func(b []byte) any { re, im := parts(b); return []any{re, im} }}
}

// float8E4M3 has one number that is none, and none that is infinite.
func float8E4M3(b []byte) float64 {
	if b[0]&0x7f == 0x7f {
		return math.NaN()
	}
	return float8(b[0], 3, 7)
}

// float8Unsigned is a number without a negative zero, whose place is that of what is no number.
func float8Unsigned(b byte, fraction, bias int) float64 {
	if b == 0x80 {
		return math.NaN()
	}
	return float8(b, fraction, bias)
}

func float8(b byte, fraction, bias int) float64 {
	exponent, value := int(b&0x7f)>>fraction, float64(int(b)&(1<<fraction-1))
	if exponent > 0 {
		value += float64(int(1) << fraction)
	} else {
		exponent = 1
	}
	value = math.Ldexp(value, exponent-bias-fraction)
	if b&0x80 != 0 {
		return -value
	}
	return value
}

// float8E8M0 is an exponent alone.
func float8E8M0(b []byte) float64 {
	if b[0] == 0xff {
		return math.NaN()
	}
	return math.Ldexp(1, int(b[0])-127)
}

// mostElements is how many a tensor may have where they are read one by one: a few bytes of a file can stand for any number
// of them.
const mostElements = 1 << 40

// readable says why the elements of a tensor cannot be read one by one, if they cannot.
func (t *tensor) readable() error {
	if elements(t.shape) > mostElements {
		return failed("tensor %s has %d elements, too many to read one by one", text.Quote(t.name), elements(t.shape))
	}
	return nil
}

// codec returns what reads the elements of a tensor.
func (t *tensor) codec() (codec, error) {
	found, known := codecs[t.dtype]
	if !known {
		return codec{}, failed("tensor %s is %s, whose values cannot be shown", text.Quote(t.name), text.Printable(t.dtype))
	}
	return found, t.readable()
}

// A walk goes through the elements of a tensor, in the order of the last dimension first.
type walk struct {
	shape   []uint64
	strides []int64
	data    []byte
	size    int // of an element
	at      []uint64
	offset  int
	ended   bool
}

func (t *tensor) walk(size int) *walk {
	return &walk{
		shape: t.shape, strides: t.strides(), data: t.bytes(), size: size, at: make([]uint64, len(t.shape)),
		ended: elements(t.shape) == 0,
	}
}

// next returns the bytes of the next element, nil behind the last one.
func (w *walk) next() []byte {
	if w.ended {
		return nil
	}
	element := w.data[w.offset : w.offset+w.size : w.offset+w.size]
	for i := len(w.at) - 1; i >= 0; i-- {
		step := w.size * int(w.strides[i])
		if w.at[i]++; w.at[i] < w.shape[i] {
			w.offset += step
			return element
		}
		w.offset -= step * int(w.shape[i]-1)
		w.at[i] = 0
	}
	w.ended = true
	return element
}

// contiguous tells whether the elements lie one after the other.
func (t *tensor) contiguous() bool {
	step := uint64(1)
	for i, stride := range slices.Backward(t.strides()) {
		if t.shape[i] != 1 && uint64(stride) != step {
			return t.size == 0
		}
		step *= t.shape[i]
	}
	return true
}

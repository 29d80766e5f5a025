package image

import (
	"fmt"
	"math"
	"testing"
)

func TestEveryFloat16IsTheNumberThatItsBitsSay(t *testing.T) {
	for bits := range 1 << 16 {
		sign, exponent, fraction := math.Copysign(1, float64(0x7fff-bits)), bits>>10&0x1f, float64(bits&0x3ff)
		var want float64
		switch exponent {
		case 0:
			want = math.Ldexp(fraction, -24)
		case 31:
			want = math.Inf(1)
			if fraction != 0 {
				want = math.NaN()
			}
		default:
			want = math.Ldexp(1024+fraction, exponent-25)
		}
		want = math.Copysign(want, sign)
		if got := float64(Float16(bits).Float32()); got != want && !(math.IsNaN(got) && math.IsNaN(want)) ||
			math.Signbit(got) != math.Signbit(want) {
			t.Fatalf("%#04x: %v, want %v", bits, got, want)
		}
	}
	for bits, want := range map[BFloat16]float32{0: 0, 0x3f80: 1, 0xc040: -3, 0x7f80: float32(math.Inf(1)), 1: 0x1p-133} {
		if got := bits.Float32(); got != want {
			t.Errorf("%#04x: %v, want %v", uint16(bits), got, want)
		}
	}
}

// A tensor whose bytes lie in memory.
func viewed[T Element](t *testing.T, dtype string, size int64) {
	t.Helper()
	data := make([]byte, 4096) // longer than what Go puts on a stack, and aligned
	image, err := Over(imageOf(t, fmt.Sprintf(
		`{"name":"t","dtype":%q,"shape":[3],"stride":[1],"segment":0,"offset":%d,"persistent":true}`, dtype, size), data))
	if err != nil {
		t.Fatal(err)
	}
	tensor := image.Tensors()[0]
	got, err := View[T](tensor)
	if err != nil || len(got) != 3 || int64(len(tensor.Bytes())) != 3*size || tensor.ElementSize() != size {
		t.Errorf("%s: %v, %v", dtype, got, err)
	}
}

func TestViewsOfEveryElement(t *testing.T) {
	viewed[int8](t, "int8", 1)
	viewed[int16](t, "int16", 2)
	viewed[int32](t, "int32", 4)
	viewed[int64](t, "int64", 8)
	viewed[uint8](t, "uint8", 1)
	viewed[uint16](t, "uint16", 2)
	viewed[uint32](t, "uint32", 4)
	viewed[uint64](t, "uint64", 8)
	viewed[float32](t, "float32", 4)
	viewed[float64](t, "float64", 8)
	viewed[complex64](t, "complex64", 8)
	viewed[complex128](t, "complex128", 16)
	viewed[Float16](t, "float16", 2)
	viewed[BFloat16](t, "bfloat16", 2)
}

func TestAnElementThatLiesAcrossIsDamage(t *testing.T) {
	const entry = `{"name":"t","dtype":"float32","shape":[3],"stride":[1],"segment":0,"offset":2,"persistent":true}`
	image, err := Over(imageOf(t, entry, make([]byte, 4096)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := View[float32](image.Tensors()[0]); err == nil {
		t.Error("a view of elements that lie where none may")
	}
}

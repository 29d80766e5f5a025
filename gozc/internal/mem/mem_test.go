package mem

import (
	"runtime"
	"testing"
)

func TestViewSharesTheMemory(t *testing.T) {
	owner := []int64{1, 2, 3}
	var pin runtime.Pinner
	pin.Pin(&owner[0])
	defer pin.Unpin()

	view := Int64s(Address(owner), 3)
	view[1] = 0x0102030405060708
	if owner[1] != view[1] {
		t.Fatalf("a write through the view did not reach its memory: %v", owner)
	}
	if raw := Bytes(Address(owner)+8, 8); len(raw) != 8 || raw[0] != 8 && raw[0] != 1 {
		t.Fatalf("the second integer reads as bytes %v", raw)
	}
	if Address(view[1:]) != Address(owner)+8 {
		t.Fatal("the address of a view is not the address it was made from")
	}
}

func TestNoElementsNeedNoAddress(t *testing.T) {
	if Bytes(0, 0) != nil || Int64s(1, 0) != nil || Address[byte](nil) != 0 {
		t.Fatal("an empty view is not nil")
	}
}

// The gopy surface turns panics into errors, so a nonsensical length must panic and not make a slice.
func TestImpossibleLengthsPanic(t *testing.T) {
	owner := make([]int64, 1)
	for _, n := range []int64{-1, 1 << 62} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a view of %d elements did not panic", n)
				}
			}()
			Int64s(Address(owner), n)
		}()
	}
}

func TestBytesAreElementsOnlyWhereTheseMayLie(t *testing.T) {
	words := []int64{1, 2, 3}
	bytes := Bytes(Address(words), 24)
	if got, ok := As[int32](bytes[4:]); !ok || len(got) != 5 || got[1] != 2 {
		t.Errorf("%v, %v", got, ok)
	}
	if got, ok := As[int64](bytes[:0]); !ok || len(got) != 0 {
		t.Errorf("%v, %v", got, ok)
	}
	for _, wrong := range [][]byte{bytes[4:12], bytes[:20]} {
		if got, ok := As[int64](wrong); ok {
			t.Errorf("%v of %d bytes", got, len(wrong))
		}
	}
	runtime.KeepAlive(words)
}

package failpoint

import (
	"errors"
	"syscall"
	"testing"
)

func TestOffNothingFails(t *testing.T) {
	Set("", 0, 0)
	if err := At("open"); err != nil {
		t.Fatal(err)
	}
}

func TestThePlaceAndTheNumberDecide(t *testing.T) {
	defer Set("", 0, 0)
	Set("open", 2, syscall.EMFILE)
	for i, want := range []error{nil, syscall.EMFILE, nil} {
		if err := At("open"); !errors.Is(err, want) {
			t.Errorf("call %d: %v, want %v", i+1, err, want)
		}
		if err := At("mmap"); err != nil {
			t.Errorf("mmap: %v", err)
		}
	}
	if seen := Set("", 0, syscall.ENOMEM); seen != 3 {
		t.Errorf("%d calls", seen)
	}
	for range 2 {
		if err := At("mmap"); !errors.Is(err, syscall.ENOMEM) {
			t.Error(err)
		}
	}
}

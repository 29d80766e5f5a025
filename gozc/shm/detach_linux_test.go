package shm

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"ray-zerocopy/gozc/mem"
)

func TestADetachedMappingKeepsItsBytes(t *testing.T) {
	page := os.Getpagesize()
	for mode, permissions := range map[Mode]string{CopyOnWrite: "rw-p", ReadOnly: "r--p"} {
		s := newStore(t, 8*page)
		at, length := page+64, 3*page // begins and ends inside of a page
		detached := mapped(t, s.address+int64(at), int64(length), 0, mode)
		other := mapped(t, s.address+int64(at), int64(length), 0, mode)
		want := bytes.Clone(detached)
		if mode == CopyOnWrite {
			detached[page], want[page] = 254, 254 // what was written before stays, too
		}
		for range 2 { // the second time does nothing
			if err := Detach(mem.Address(detached)); err != nil {
				t.Fatal(err)
			}
		}
		clear(s.memory)
		if !bytes.Equal(detached, want) {
			t.Errorf("mode %d: the bytes are those of the store", mode)
		}
		if got := permissionsOf(t, mem.Address(detached)); got != permissions {
			t.Errorf("mode %d: the mapping is %s", mode, got)
		}
		if other[2*page] != 0 {
			t.Errorf("mode %d: another mapping is detached as well", mode)
		}
		if err := Unmap(mem.Address(detached)); err != nil {
			t.Error(err)
		}
		if region, err := Locate(mem.Address(detached), 1); err == nil && region.File.Inode != 0 {
			t.Errorf("mode %d: still mapped: %+v", mode, region)
		}
	}
}

func TestDetachOfWhatIsNotMapped(t *testing.T) {
	page := int64(os.Getpagesize())
	s := newStore(t, int(page))
	copied, err := Map(s.address, page, 0, CopyOnWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmap(copied); err != nil {
		t.Fatal(err)
	}
	for _, address := range []int64{copied, s.address, 0, -1} {
		if err := Detach(address); !errors.Is(err, ErrUnknown) {
			t.Errorf("%#x: %v", address, err)
		}
	}
}

// A page that the store does not have any more is an error: the mapping must not be taken for safe.
func TestDetachOfBytesThatAreGone(t *testing.T) {
	page := os.Getpagesize()
	for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
		s := newStore(t, 2*page)
		gone := mapped(t, s.address, int64(2*page), 0, mode)
		if err := s.file.Truncate(int64(page)); err != nil {
			t.Fatal(err)
		}
		if err := Detach(mem.Address(gone)); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
}

func TestRewriteOwnsThePagesOnOldSystems(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 16*page)
	private := mapped(t, s.address, int64(16*page), 0, CopyOnWrite)
	want := bytes.Clone(private)
	if err := rewrite(mem.Address(private), int64(len(private))); err != nil {
		t.Fatal(err)
	}
	clear(s.memory)
	if !bytes.Equal(private, want) {
		t.Fatal("the bytes are those of the store")
	}
}

// Both ways must not undo what another thread writes at the same time.
func TestDetachBesideWriters(t *testing.T) {
	page := os.Getpagesize()
	const count = 64
	for name, detach := range map[string]func(address, length int64) error{"populate": ownPages, "rewrite": rewrite} {
		s := newStore(t, count*page)
		clear(s.memory)
		private := mapped(t, s.address, int64(count*page), 0, CopyOnWrite)
		words := mem.Int32s(mem.Address(private), int64(len(private)/4))
		var stop atomic.Bool
		var writers sync.WaitGroup
		var written int32
		writers.Go(func() {
			for ; !stop.Load() || written < 1000; written++ {
				for at := 0; at < len(words); at += page / 4 {
					atomic.StoreInt32(&words[at], written+1)
					if got := atomic.LoadInt32(&words[at]); got != written+1 {
						t.Errorf("%s: wrote %d and found %d", name, written+1, got)
						return
					}
				}
			}
		})
		for range 200 {
			if err := detach(mem.Address(private), int64(len(private))); err != nil {
				t.Error(err)
			}
		}
		stop.Store(true)
		writers.Wait()
	}
}

func TestDetachAndUnmapAtOnce(t *testing.T) {
	page := int64(os.Getpagesize())
	s := newStore(t, int(64*page))
	for range 200 {
		copied, err := Map(s.address, 64*page, 0, ReadOnly)
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		group.Go(func() {
			if err := Detach(copied); err != nil && !errors.Is(err, ErrUnknown) {
				t.Error(err)
			}
		})
		group.Go(func() {
			if err := Unmap(copied); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
	}
}

func BenchmarkDetach(b *testing.B) {
	const size = 1 << 30
	s := newStore(b, size)
	for mode, name := range map[Mode]string{CopyOnWrite: "copy-on-write", ReadOnly: "read-only"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				copied, err := Map(s.address, size, 0, mode)
				if err != nil {
					b.Fatal(err)
				}
				if err := Detach(copied); err != nil {
					b.Fatal(err)
				}
				if err := Unmap(copied); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

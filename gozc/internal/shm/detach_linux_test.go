package shm

import (
	"bytes"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

func TestADetachedMappingKeepsItsBytes(t *testing.T) {
	page := os.Getpagesize()
	for mode, permissions := range map[Mode]string{CopyOnWrite: "rw-p", ReadOnly: "r--p"} {
		s := newStore(t, 8*page)
		at, length := page+64, 3*page // begins and ends inside of a page
		made := mapping(t, s.address+int64(at), int64(length), 0, mode)
		detached := mem.Bytes(made.Address, int64(length))
		other := mapped(t, s.address+int64(at), int64(length), 0, mode)
		want := bytes.Clone(detached)
		if mode == CopyOnWrite {
			detached[page], want[page] = 254, 254 // what was written before stays, too
		}
		for range 2 { // the second time changes nothing
			if err := made.Detach(); err != nil {
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
		unmapped(t, made)
		if region, err := Locate(made.Address, 1); err == nil && region.File.Inode != 0 {
			t.Errorf("mode %d: still mapped: %+v", mode, region)
		}
	}
}

func TestDetachOfWhatIsNotMapped(t *testing.T) {
	page := int64(os.Getpagesize())
	for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
		s := newStore(t, int(page))
		made := mapping(t, s.address, page, 0, mode)
		unmapped(t, made)
		if err := made.Detach(); err == nil {
			t.Errorf("mode %d: no error", mode)
		}
	}
}

// A page that the store does not have any more is an error: the mapping must not be taken for safe.
func TestDetachOfBytesThatAreGone(t *testing.T) {
	page := os.Getpagesize()
	for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
		s := newStore(t, 2*page)
		gone := mapping(t, s.address, int64(2*page), 0, mode)
		t.Cleanup(func() { unmapped(t, gone) })
		if err := s.file.Truncate(int64(page)); err != nil {
			t.Fatal(err)
		}
		if err := gone.Detach(); err == nil {
			t.Errorf("mode %d: no error", mode)
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

func BenchmarkDetach(b *testing.B) {
	const size = 1 << 30
	s := newStore(b, size)
	for mode, name := range map[Mode]string{CopyOnWrite: "copy-on-write", ReadOnly: "read-only"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				made := mapping(b, s.address, size, 0, mode)
				if err := made.Detach(); err != nil {
					b.Fatal(err)
				}
				unmapped(b, made)
			}
		})
	}
}

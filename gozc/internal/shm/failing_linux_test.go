package shm

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/failpoint"
)

func regions(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(maps, []byte("memfd:plasma"))
}

// Each system call fails in turn, the first, the second and so on until none is left, each time with nothing found
// before: whatever fails, there is an error, or the mapping that was asked for, and no descriptor or mapping is left.
func TestEverySystemCallMayFail(t *testing.T) {
	defer failpoint.Set("", 0, 0)
	page := int64(os.Getpagesize())
	s := newStore(t, int(4*page))
	for _, errno := range []syscall.Errno{unix.EMFILE, unix.ENOMEM, unix.EACCES} {
		for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
			descriptors, before := openDescriptors(t), regions(t)
			failures, scarce, beyond := 0, 0, 0
			number := int64(0)
			for ; ; number++ {
				clear(found.paths)
				if number > 0 {
					failpoint.Set("", number, errno)
				} else { // the last one, whose number changes when processes come and go
					failpoint.Set(map[Mode]string{CopyOnWrite: "mmap", ReadOnly: "mremap"}[mode], 1, errno)
				}
				made, err := Map(s.address+8, page, 0, mode)
				passed := failpoint.Set("", 0, 0)
				if err == nil {
					unmapped(t, made)
				} else {
					failures++
				}
				if errors.Is(err, ErrScarce) {
					scarce++
				}
				if now, left := openDescriptors(t), regions(t); now != descriptors || left != before {
					t.Fatalf("mode %d, call %d, %v: %d descriptors and %d mappings before, %d and %d after",
						mode, number, errno, descriptors, before, now, left)
				}
				// a search looks at all processes, and is shorter when some have just ended
				if beyond++; number <= passed {
					beyond = 0
				}
				if beyond == 100 {
					break
				}
			}
			if failures == 0 || (errno != unix.EACCES && scarce == 0) || (errno == unix.EACCES && scarce > 0) {
				t.Errorf("mode %d, %v: %d of %d calls that failed were errors, %d of them for want of something",
					mode, errno, failures, number-int64(beyond), scarce)
			}
		}
	}
}

func TestDetachOrPrefaultMayFail(t *testing.T) {
	defer failpoint.Set("", 0, 0)
	page := int64(os.Getpagesize())
	s := newStore(t, int(4*page))
	for mode, places := range map[Mode][]string{CopyOnWrite: {"madvise"}, ReadOnly: {"mmap", "mprotect", "mremap"}} {
		made := mapping(t, s.address, 4*page, 0, mode)
		for _, place := range places {
			failpoint.Set(place, 1, unix.ENOMEM)
			if err := made.Detach(); !errors.Is(err, unix.ENOMEM) {
				t.Errorf("detach, mode %d, %s: %v", mode, place, err)
			}
		}
		failpoint.Set("madvise", 1, unix.ENOMEM)
		if err := Prefault(made.Address, page); !errors.Is(err, unix.ENOMEM) {
			t.Errorf("prefault: %v", err)
		}
		// a kernel before Linux 5.14
		failpoint.Set("madvise", 0, unix.EINVAL)
		if err := errors.Join(Prefault(made.Address, page), made.Detach()); err != nil {
			t.Error(err)
		}
		failpoint.Set("", 0, 0)
		unmapped(t, made)
	}
}

// Without the system call that asks for one mapping, as before Linux 6.11, the list is read.
func TestWithoutTheQueryTheListIsRead(t *testing.T) {
	defer failpoint.Set("", 0, 0)
	s := newStore(t, os.Getpagesize())
	failpoint.Set("ioctl", 0, unix.ENOTTY)
	if private := mapped(t, s.address, 100, 0, CopyOnWrite); !bytes.Equal(private, s.memory[:100]) {
		t.Error("the mapping has other bytes")
	}
}

// As on btrfs, where stat and the list of mappings do not agree on the device of a file.
func TestFileIsFoundWhereStatNamesAnotherDevice(t *testing.T) {
	really := statAs
	defer func() { statAs = really }()
	statAs = func(stat *unix.Stat_t) File { return File{Device: uint64(stat.Dev) + 1, Inode: stat.Ino + 1} }
	other, s := newStore(t, os.Getpagesize()), newStore(t, os.Getpagesize())
	other.memory[0], s.memory[0] = 1, 2
	for range 2 { // searched, and known
		private := mapped(t, s.address, 100, 0, CopyOnWrite)
		if private[0] != 2 {
			t.Fatal("mapped another file")
		}
	}
}

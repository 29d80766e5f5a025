package shm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/failpoint"
)

// scarce marks an error of the system that says that this process has used up something.
func scarce(err error) error {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrScarce, err)
		}
	}
	return err
}

func openPath(path string, flags int) (int, error) {
	for {
		descriptor, err := 0, failpoint.At("open")
		if err == nil {
			descriptor, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("open %s: %w", path, scarce(err))
		}
		return descriptor, nil
	}
}

// readAll reads a file of /proc.
func readAll(path string) ([]byte, error) {
	var all []byte
	err := inPieces(path, unix.O_RDONLY, unix.Read, func(piece []byte) {
		all = append(all, piece...)
	})
	return all, err
}

// namesIn returns the entries of a folder, without itself and the one above.
func namesIn(folder string) ([]string, error) {
	var names []string
	err := inPieces(folder, unix.O_RDONLY|unix.O_DIRECTORY, unix.ReadDirent, func(piece []byte) {
		_, _, names = unix.ParseDirent(piece, -1, names)
	})
	return names, err
}

// inPieces opens a path, and hands over what read gives for it until that is nothing.
func inPieces(path string, flags int, read func(int, []byte) (int, error), take func([]byte)) error {
	descriptor, err := openPath(path, flags)
	if err != nil {
		return err
	}
	defer unix.Close(descriptor)
	buffer := make([]byte, 64<<10)
	for {
		n, err := 0, failpoint.At("read")
		if err == nil {
			n, err = read(descriptor, buffer)
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if n == 0 {
			return nil
		}
		take(buffer[:n])
	}
}

// The calls below are the system's own, each with the place where a test can have it fail.

func fstat(descriptor int, stat *unix.Stat_t) error {
	if err := failpoint.At("fstat"); err != nil {
		return err
	}
	return unix.Fstat(descriptor, stat)
}

func ioctl(descriptor int, request, argument uintptr) error {
	if err := failpoint.At("ioctl"); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(descriptor), request, argument); errno != 0 {
		return errno
	}
	return nil
}

// mremap takes an address and old and new size, and where to move it with MREMAP_FIXED.
func mremap(address, size, resized int64, flags int, to int64) (int64, error) {
	if err := failpoint.At("mremap"); err != nil {
		return 0, err
	}
	moved, _, errno := unix.Syscall6(unix.SYS_MREMAP,
		uintptr(address), uintptr(size), uintptr(resized), uintptr(flags), uintptr(to), 0)
	if errno != 0 {
		return 0, errno
	}
	return int64(moved), nil
}

func mprotect(memory []byte, protection int) error {
	if err := failpoint.At("mprotect"); err != nil {
		return err
	}
	return unix.Mprotect(memory, protection)
}

func madvise(memory []byte, advice int) error {
	if err := failpoint.At("madvise"); err != nil {
		return err
	}
	return unix.Madvise(memory, advice)
}

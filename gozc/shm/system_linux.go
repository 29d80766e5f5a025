package shm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
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
		descriptor, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
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
	descriptor, err := openPath(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(descriptor)
	var all []byte
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(descriptor, buffer)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if n == 0 {
			return all, nil
		}
		all = append(all, buffer[:n]...)
	}
}

// namesIn returns the entries of a folder, without itself and the one above.
func namesIn(folder string) ([]string, error) {
	descriptor, err := openPath(folder, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(descriptor)
	var names []string
	buffer := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(descriptor, buffer)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", folder, err)
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

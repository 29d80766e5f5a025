package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// failed is an error for the user, who cannot have what was asked for.
func failed(format string, values ...any) error { return fmt.Errorf(format, values...) }

// say says in one line what went wrong, and with what.
func say(errs io.Writer, what string, err error) {
	said := line(err)
	if !strings.Contains(said, what) {
		said = what + ": " + said
	}
	fmt.Fprintf(errs, "ray_zerocopy: %s\n", said)
}

// line returns an error's text on one line, and those of the system as Python has them.
func line(err error) string {
	var base *image.BaseError
	var path *fs.PathError
	said := err.Error()
	switch {
	case errors.As(err, &base):
		said = base.With(line(base.Err))
	case errors.As(err, &path):
		said = system(path.Err, path.Path)
	}
	return strings.Join(strings.Fields(said), " ")
}

// system returns what Python says of an error of the system.
func system(err error, path string) string {
	var code syscall.Errno
	if !errors.As(err, &code) {
		return err.Error() + ": " + text.Quote(path)
	}
	return fmt.Sprintf("[Errno %d] %s: %s", int(code), meaning(code), text.Quote(path))
}

// meaning returns the text of an error number: Go has those of the C library, but for the first letter.
func meaning(code syscall.Errno) string {
	said := code.Error()
	return strings.ToUpper(said[:1]) + said[1:]
}

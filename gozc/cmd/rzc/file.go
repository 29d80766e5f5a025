package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

const partial = ".partial" // what the Python package calls its own, and removes where a writer was killed

// writeFile writes a file: whoever looks sees the file that was there before, if any, or all of the new one. It can only be
// read then, for a write into it would change the weights of those who have it mapped.
func writeFile(path string, fill func(write func([]byte) error) error) error {
	target := absolute(path)
	folder, name := filepath.Split(target)
	if about, err := os.Stat(target); err == nil && about.IsDir() {
		return failed("[Errno %d] a folder, where a file is to be written: %s", int(syscall.EISDIR), text.Quote(target))
	}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return failed("[Errno %d] there is no such folder: %s", int(syscall.ENOENT), text.Quote(filepath.Clean(folder)))
	}
	random := make([]byte, 8)
	_, _ = rand.Read(random) // which does not fail
	hidden := filepath.Join(folder, "."+name[:min(len(name), 200)]+"."+hex.EncodeToString(random)+partial)
	file, err := os.OpenFile(hidden, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return unwritten(target, err)
	}
	defer file.Close()
	var source error
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // whoever removes what was left goes by it
	if err == nil {
		var failure error
		source = fill(func(piece []byte) error {
			_, failure = file.Write(piece)
			return failure
		})
		err = failure
	}
	for _, step := range []func() error{
		func() error { return file.Chmod(0o444) }, file.Sync, func() error { return os.Rename(hidden, target) },
	} {
		if err == nil && source == nil {
			err = step()
		}
	}
	if err != nil || source != nil {
		_ = os.Remove(hidden)
	}
	switch {
	case err != nil:
		return unwritten(target, err)
	case source != nil:
		return source
	}
	if above, err := os.Open(folder); err == nil {
		_ = above.Sync() // some file systems cannot, and have the file all the same
		_ = above.Close()
	}
	return nil
}

// unwritten says why a file could not be written.
func unwritten(target string, err error) error {
	var code syscall.Errno
	why := err.Error()
	if errors.As(err, &code) {
		why = meaning(code)
	}
	said := text.Quote(target) + ": it could not be written (" + why + "), and nothing is left of it"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		said += ". Make room in " + text.Quote(strings.TrimRight(filepath.Dir(target), "/")) + ", or choose another folder"
	}
	return errors.New(said)
}

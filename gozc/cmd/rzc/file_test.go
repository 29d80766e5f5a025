package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFileThatCannotBeWrittenLeavesTheOldOneAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("the image is gone")
	err := writeFile(path, func(write func([]byte) error) error {
		return errors.Join(write([]byte("some")), lost)
	})
	if !errors.Is(err, lost) {
		t.Errorf("%v, want %v", err, lost)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if text, err := os.ReadFile(path); string(text) != "old" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	err = writeFile(path, func(write func([]byte) error) error { return write([]byte("new")) })
	if text, _ := os.ReadFile(path); string(text) != "new" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestAFullDiskIsSaidInOneLine(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	_, err = full.WriteString("x")
	said := unwritten("/models/x.rzc", err).Error()
	want := "'/models/x.rzc': it could not be written (No space left on device), and nothing is left of it. " +
		"Make room in '/models', or choose another folder"
	if said != want || strings.Contains(said, "\n") {
		t.Errorf("%s, want %s", said, want)
	}
}

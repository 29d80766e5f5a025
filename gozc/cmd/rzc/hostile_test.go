package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// sealed writes the checksum of an image's head that fits what it says, as a hostile writer would do.
func sealed(image []byte) []byte {
	if len(image) < 128 || string(image[:len(magic)]) != magic {
		return image
	}
	head := binary.LittleEndian.Uint64(image[24:])
	if head < 128 || head > uint64(len(image)) {
		return image
	}
	binary.LittleEndian.PutUint32(image[80:], 0)
	binary.LittleEndian.PutUint32(image[80:], crc32.ChecksumIEEE(image[:head]))
	return image
}

func FuzzFile(f *testing.F) {
	base, err := os.ReadFile("../../../tests/golden/v2.image")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"v1.image", "v2.image", "v2-shared.image"} {
		image, err := os.ReadFile("../../../tests/golden/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(image)
		f.Add(sealed(bytes.Replace(image, []byte(`"stride":[5,1]`), []byte(`"stride":[0,1]`), 1)))
	}
	const header = `{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"e":{"dtype":"F4","shape":[0],"data_offsets":[8,8]}}`
	f.Add(append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), make([]byte, 8)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		folder := t.TempDir()
		path := filepath.Join(folder, "x.safetensors")
		if err := os.WriteFile(path, sealed(bytes.Clone(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "v2.image"), base, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := open(path)
		if err != nil {
			say(io.Discard, path, err)
			return
		}
		defer found.close()
		told(found)
		if err := text.WriteJSON(io.Discard, plain(found)); err != nil {
			t.Fatal(err)
		}
		const few = 1 << 16 // elements, or it takes long
		all := uint64(0)
		for i := range found.tensors {
			each := &found.tensors[i]
			if all += elements(each.shape); all > few {
				return
			}
			if codec, err := each.codec(); err == nil {
				_ = catText(io.Discard, each, codec, 10)
			}
		}
		if changed := differences(found, found); len(changed) > 0 {
			t.Error(changed)
		}
		if found.format == modelFile {
			_ = writeSafetensors(filepath.Join(folder, "y"), found)
		} else {
			_ = writeImage(filepath.Join(folder, "y"), found)
		}
	})
}

func TestATensorOfMoreElementsThanCanBeReadIsRefused(t *testing.T) {
	wide := tensor{name: "wide", dtype: "float32", shape: []uint64{1 << 21, 1 << 21}, stride: []int64{0, 0}}
	if _, err := wide.codec(); err == nil {
		t.Error("2^42 elements")
	}
	wide.persistent = true
	if err := writeSafetensors(filepath.Join(t.TempDir(), "x"), &weights{tensors: []tensor{wide}}); err == nil {
		t.Error("2^42 elements")
	}
}

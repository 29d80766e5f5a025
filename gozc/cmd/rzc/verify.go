package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

var verify = &verb{
	name:  "verify",
	short: "compare all bytes of model files with their checksums",
	description: `Reads all bytes of model files (what wrapper.save(path) writes), or of images in this node's store (store:...), and
compares them with the checksums in them. Of one that is damaged it names the first tensor that is. Runs no code of the
file.

A .safetensors file has no checksums. Convert it into a model file, and that can be verified from then on.
`,
	operands: []string{"FILE..."},
	run: func(given given, out io.Writer) error {
		var found error
		for _, path := range given.operands {
			size, err := verified(path)
			if err != nil {
				say(os.Stderr, path, err)
				found = errDone
				continue
			}
			if _, err := fmt.Fprintf(out, "%s: all %s are as they were written\n", path, text.Size(size)); err != nil {
				return err
			}
		}
		return found
	},
}

func verified(path string) (int64, error) {
	if strings.HasPrefix(path, storePrefix) {
		found, err := openStored(path)
		if err != nil {
			return 0, err
		}
		defer found.close()
		err = found.image.Verify()
		if gone := found.sound(); gone != nil { // which is why other bytes are there
			err = gone
		}
		return found.size, err
	}
	is, err := isModelFile(path)
	if err != nil {
		return 0, err
	}
	if !is {
		return 0, failed("this is no model file of ray-zerocopy, which alone has checksums")
	}
	found, err := image.Open(path)
	if err != nil {
		return 0, err
	}
	defer found.Close()
	return found.Size(), found.Verify()
}

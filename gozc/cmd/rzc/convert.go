package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

var convert = &verb{
	name:  "convert",
	short: "from a model file to .safetensors, and back",
	description: `Writes the tensors of a model file (what wrapper.save(path) writes), or of an image in this node's store (store:...), that
its state_dict has into a .safetensors file, which other programs read.

The other way, the model file holds the tensors by name, and no model: in Python, ModelWrapper.open(path).load(into=model)
puts them into one, .tensors() gives them as they are, and .load() a dictionary of them. To have a model in the file, use
python -m ray_zerocopy convert with --into.
`,
	operands: []string{"SOURCE", "DESTINATION"},
	options:  map[string]string{"--force": "write over a DESTINATION that is there"},
	run: func(given given, out io.Writer) error {
		source, destination := given.operands[0], given.operands[1]
		if err := converted(source, destination, given.has("--force")); err != nil {
			return err
		}
		about, err := os.Stat(destination)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s: %s\n", destination, text.Size(about.Size()))
		return err
	},
}

func converted(source, destination string, force bool) error {
	if there, err := os.Stat(destination); err == nil {
		if !force {
			return failed("%s is there already: --force writes over it", destination)
		}
		if !strings.HasPrefix(source, storePrefix) {
			from, err := os.Stat(source)
			if err != nil {
				return err
			}
			if os.SameFile(from, there) {
				return failed("SOURCE and DESTINATION are the same file")
			}
		}
	}
	model, into := strings.HasPrefix(source, storePrefix), strings.HasSuffix(destination, suffix)
	if !model {
		var err error
		if model, err = isModelFile(source); err != nil {
			return err
		}
	}
	switch {
	case model && !into:
		return failed("%s must end in %s: that is what a model file is converted to", destination, suffix)
	case !model && into:
		return failed("%s ends in %s, and a model file is what %s is converted to", destination, suffix, source)
	}
	found, err := open(source)
	if err != nil {
		return err
	}
	defer found.close()
	if model {
		return writeSafetensors(destination, found)
	}
	return writeImage(destination, found)
}

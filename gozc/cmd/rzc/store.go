package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
	imagestore "github.com/ray-zerocopy/ray-zerocopy/gozc/store"
)

// storePrefix begins what stands for an image in the store where other verbs take a file.
const storePrefix = "store:"

var store = &verb{
	name:  "store",
	short: "list the images in this node's store",
	description: `Lists the model images in the stores of this machine's raylets, found through their descriptors, without Ray. The other
verbs take store:WHAT for a file, where WHAT is the class of an image or the first digits of its fingerprint.

An image that nobody in Ray holds any more ends at any moment; a verb that was reading it says so.
`,
	options: map[string]string{"--json": "the same for programs, sizes in bytes"},
	run: func(given given, out io.Writer) error {
		entries, err := imagestore.List()
		if err != nil {
			return err
		}
		if given.has("--json") {
			list := []any{}
			for _, each := range entries {
				list = append(list, text.Object{
					{Key: "fingerprint", Value: each.Fingerprint}, {Key: "class", Value: each.Class},
					{Key: "models", Value: text.List(each.Models)}, {Key: "nbytes", Value: each.Size}, {Key: "raylet", Value: each.Raylet},
				})
			}
			return text.WriteJSON(out, list)
		}
		if len(entries) == 0 {
			_, err := fmt.Fprintln(out, "no images")
			return err
		}
		rows := make([][]string, len(entries))
		for i, each := range entries {
			models := text.Printable(strings.Join(each.Models, ", "))
			rows[i] = []string{each.Fingerprint[:12], text.Printable(each.Class), models, text.Size(each.Size), fmt.Sprint(each.Raylet)}
		}
		_, err = fmt.Fprintln(out, text.Table([]string{"FINGERPRINT", "CLASS", "MODELS", "SIZE", "RAYLET"}, rows, "SIZE", "RAYLET"))
		return err
	},
}

func openStored(path string) (*weights, error) {
	entry, err := imagestore.Find(strings.TrimPrefix(path, storePrefix))
	if err != nil {
		return nil, err
	}
	found, err := entry.Open()
	if err != nil {
		return nil, err
	}
	w, err := ofImage(path, found.Image, found.Close)
	if err == nil {
		w.check = found.Check
	}
	return w, err
}

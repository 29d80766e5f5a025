//go:build gotorch

package main

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/torch"
)

func init() { run.run = runModel }

// runModel runs a model over weights: inputs, as JSON, to outputs.
func runModel(given given, out io.Writer) error {
	if asked, there := given.options["--threads"]; there {
		n, err := strconv.ParseInt(asked, 10, 16)
		if err != nil || n < 1 {
			return failed("--threads %s is no number of threads", asked)
		}
		torch.SetThreads(int(n))
	}
	found, err := open(given.operands[0])
	if err != nil {
		return err
	}
	defer found.close()
	var weights []torch.Weight
	for _, each := range found.tensors {
		shape := make([]int64, len(each.shape))
		for i, n := range each.shape {
			shape[i] = int64(n) // what no memory holds, torch.NewMLP and torch.NewEncoder refuse
		}
		weights = append(weights, torch.Weight{Name: each.name, Dtype: each.dtype, Shape: shape, Stride: each.strides(), Bytes: each.bytes()})
	}
	var outputs [][]float32
	if torch.IsEncoder(weights) {
		outputs, err = encode(given, weights)
	} else {
		outputs, err = forward(given, weights)
	}
	if err != nil {
		return failed("%s: %w", given.operands[0], err)
	}
	if err := found.sound(); err != nil {
		return err
	}
	return writeRows(out, outputs)
}

// writeRows writes a list of lists as JSON, one on a line. A number read from it is, as a float32, the one that was there.
func writeRows(out io.Writer, rows [][]float32) error {
	lines := make([]string, len(rows))
	for i, row := range rows {
		numbers := make([]string, len(row))
		for i, value := range row {
			numbers[i] = text.JSONFloat32(value)
		}
		lines[i] = "\n  [" + strings.Join(numbers, ", ") + "]"
	}
	_, err := io.WriteString(out, "["+strings.Join(lines, ",")+"\n]\n")
	return err
}

func encode(given given, weights []torch.Weight) ([][]float32, error) {
	if given.has("--activation") {
		return nil, failed("--activation is for an MLP; BERT's stands in its config.json")
	}
	folder, there := given.options["--config"]
	if !there {
		if strings.HasPrefix(given.operands[0], storePrefix) {
			return nil, failed("BERT needs its config.json: --config names the folder in which it is")
		}
		folder = filepath.Dir(given.operands[0])
	}
	config, err := torch.ReadConfig(folder)
	if missing := (*fs.PathError)(nil); errors.As(err, &missing) {
		return nil, failed("BERT needs %s (%w): --config names the folder in which it is", text.Quote(missing.Path), missing.Err)
	}
	if err != nil {
		return nil, failed("--config: %w", err)
	}
	inputs, err := readInputs[int64](given.operands[1], "lists of tokens: [[101, 7592, 102]]")
	if err != nil {
		return nil, err
	}
	model, err := torch.NewEncoder(weights, config)
	if err != nil {
		return nil, err
	}
	defer model.Close()
	return model.Encode(inputs)
}

func forward(given given, weights []torch.Weight) ([][]float32, error) {
	if given.has("--config") {
		return nil, failed("--config is for BERT, and there are no word embeddings in this file")
	}
	activation, there := given.options["--activation"]
	if !there {
		activation = "relu"
	}
	inputs, err := readInputs[float32](given.operands[1], "rows of numbers: [[0.5, 1]]")
	if err != nil {
		return nil, err
	}
	model, err := torch.NewMLP(weights, activation)
	if err != nil {
		return nil, err
	}
	defer model.Close()
	return model.Forward(inputs)
}

// readInputs reads a list of lists from a file of JSON; "-" is stdin.
func readInputs[T int64 | float32](path, what string) ([][]T, error) {
	file := os.Stdin
	if path != "-" {
		opened, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		file = opened
	}
	said, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	var inputs [][]T
	if err := json.Unmarshal(said, &inputs); err != nil {
		return nil, failed("%s: expected %s (%v)", text.Quote(path), what, err)
	}
	if inputs == nil || slices.ContainsFunc(inputs, func(row []T) bool { return row == nil }) {
		return nil, failed("%s: expected %s, and there is null", text.Quote(path), what)
	}
	return inputs, nil
}

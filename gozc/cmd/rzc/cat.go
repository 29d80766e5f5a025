package main

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

var cat = &verb{
	name:  "cat",
	short: "show the values of a tensor, and their statistics",
	description: `Shows the values of a tensor of a model file, of a .safetensors file, or of an image in this node's store (store:...),
one line for each row of the last dimension, behind statistics of all of them. Runs no code of the file.
`,
	operands: []string{"FILE", "TENSOR"},
	options: map[string]string{
		"--json":   "the same for programs, values as one list",
		"--limit=": "how many values (100)",
	},
	run: func(given given, out io.Writer) error {
		limit := uint64(100)
		if asked, there := given.options["--limit"]; there {
			n, err := strconv.ParseUint(asked, 10, 64)
			if err != nil {
				return failed("--limit %s is no number of values", asked)
			}
			limit = n
		}
		found, err := open(given.operands[0])
		if err != nil {
			return err
		}
		defer found.close()
		tensor, err := found.tensor(given.operands[1])
		if err != nil {
			return err
		}
		codec, err := tensor.codec()
		if err != nil {
			return err
		}
		if given.has("--json") {
			err = catJSON(out, tensor, codec, limit)
		} else {
			err = catText(out, tensor, codec, limit)
		}
		if err != nil {
			return err
		}
		return found.sound()
	},
}

func catText(out io.Writer, t *tensor, codec codec, limit uint64) error {
	count := elements(t.shape)
	fmt.Fprintf(out, "%s: %s, %s, %s\n", text.Printable(t.name), t.dtype, dimensions(t.shape), text.Size(int64(t.size)))
	if found := statisticsOf(t, codec); found != nil {
		fmt.Fprintf(out, "min %s, max %s, mean %s, standard deviation %s; zero: %s, no number: %s, infinite: %s\n",
			found.min, found.max, rounded(found.mean), rounded(found.deviation),
			text.Number(found.zeros), text.Number(found.nans), text.Number(found.infinite))
	}
	if count == 0 {
		_, err := fmt.Fprintln(out, "no values")
		return err
	}
	if limit > 0 {
		fmt.Fprintln(out)
	}
	width := uint64(1)
	if n := len(t.shape); n > 0 {
		width = t.shape[n-1]
	}
	shown := uint64(0)
	var failed error
	for walk := t.walk(codec.size); failed == nil && shown < min(limit, count); {
		shown++
		end := " "
		if shown%width == 0 || shown == min(limit, count) {
			end = "\n"
		}
		_, failed = io.WriteString(out, codec.show(walk.next())+end)
	}
	if failed == nil && shown < count {
		_, failed = fmt.Fprintf(out, "and %s more: --limit %d shows them\n", text.Number(int64(count-shown)), count)
	}
	return failed
}

func rounded(f float64) string {
	if math.IsInf(f, 1) {
		return "inf"
	}
	return strconv.FormatFloat(f, 'g', 7, 64)
}

func catJSON(out io.Writer, t *tensor, codec codec, limit uint64) error {
	values := []any{}
	for walk := t.walk(codec.size); uint64(len(values)) < min(limit, elements(t.shape)); {
		values = append(values, codec.plain(walk.next()))
	}
	object := text.Object{
		{Key: "name", Value: t.name}, {Key: "dtype", Value: t.dtype}, {Key: "shape", Value: text.List(t.shape)}, {Key: "nbytes", Value: t.size},
	}
	if found := statisticsOf(t, codec); found != nil {
		object = append(object, text.Field{Key: "statistics", Value: text.Object{
			{Key: "min", Value: found.least}, {Key: "max", Value: found.most}, {Key: "mean", Value: found.mean},
			{Key: "standard_deviation", Value: found.deviation}, {Key: "zeros", Value: found.zeros}, {Key: "nans", Value: found.nans},
			{Key: "infinite", Value: found.infinite},
		}})
	}
	return text.WriteJSON(out, append(object, text.Field{Key: "values", Value: values}))
}

// statistics of the numbers of a tensor. Min, max, mean and deviation are of those that are finite.
type statistics struct {
	min, max              string
	least, most           any // the same for JSON
	mean, deviation       float64
	zeros, nans, infinite int64
}

// statisticsOf returns nil where there is no finite number, or no order among them.
func statisticsOf(t *tensor, codec codec) *statistics {
	if codec.real == nil {
		return nil
	}
	var found statistics
	var least, most []byte
	low, high, squares, count := math.Inf(1), math.Inf(-1), 0.0, 0.0
	walk := t.walk(codec.size)
	for element := walk.next(); element != nil; element = walk.next() {
		switch value := codec.real(element); {
		case math.IsNaN(value):
			found.nans++
		case math.IsInf(value, 0):
			found.infinite++
		default:
			if value < low {
				low, least = value, element
			}
			if value > high {
				high, most = value, element
			}
			if value == 0 {
				found.zeros++
			}
			count++ // as Welford has it: sums of squares would lose what counts
			step := value - found.mean
			found.mean += step / count
			squares += step * (value - found.mean)
		}
	}
	if count == 0 {
		return nil
	}
	found.min, found.max, found.least, found.most = codec.show(least), codec.show(most), codec.plain(least), codec.plain(most)
	found.deviation = math.Sqrt(squares / count)
	return &found
}

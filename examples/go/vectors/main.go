// Vectors serves rows of a model's tensor over HTTP, from a model file or from this node's Ray store: over the pages that the
// Python workers have mapped, without a copy, and without Python.
//
//	go run ./examples/go/vectors encoder.rzc embedding.weight localhost:8080
//	go run ./examples/go/vectors store:Encoder embedding.weight localhost:8080
//	curl 'localhost:8080/vectors?row=3&row=17'
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/store"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: vectors FILE|store:CLASS TENSOR ADDRESS")
	}
	table, err := open(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving on", listener.Addr())
	http.Handle("GET /vectors", table)
	log.Fatal(http.Serve(listener, nil))
}

// A table is a matrix of a model. It is opened once, and stays mapped as long as the service runs.
type table struct {
	shape, stride []int64
	values        []float32
	check         func() error // whether they still are what they were; nil for a file, which stays
}

func open(where, name string) (*table, error) {
	var model *image.Image
	var check func() error
	if what, stored := strings.CutPrefix(where, "store:"); stored {
		entry, err := store.Find(what)
		if err != nil {
			return nil, err
		}
		found, err := entry.Open()
		if err != nil {
			return nil, err
		}
		model, check = found.Image, found.Check
	} else {
		found, err := image.Open(where)
		if err != nil {
			return nil, err
		}
		model = found
	}
	tensor, err := model.Tensor(name)
	if err != nil {
		return nil, err
	}
	values, err := image.View[float32](tensor)
	if err != nil {
		return nil, err
	}
	if len(tensor.Shape) != 2 {
		return nil, fmt.Errorf("tensor %q has %d dimensions, expected a matrix", name, len(tensor.Shape))
	}
	return &table{tensor.Shape, tensor.Stride, values, check}, nil
}

func (t *table) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	vectors := [][]float32{}
	for _, text := range request.URL.Query()["row"] {
		row, err := strconv.ParseInt(text, 10, 64)
		if err != nil || row < 0 || row >= t.shape[0] {
			http.Error(response, fmt.Sprintf("row %q: expected 0 to %d", text, t.shape[0]-1), http.StatusBadRequest)
			return
		}
		vector := make([]float32, t.shape[1]) // an answer's own: what is in the store may change after the check
		for i := range vector {
			vector[i] = t.values[row*t.stride[0]+int64(i)*t.stride[1]]
		}
		vectors = append(vectors, vector)
	}
	if t.check != nil {
		if err := t.check(); err != nil {
			http.Error(response, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	response.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(response).Encode(vectors); err != nil {
		log.Print(err) // who asked has gone, or a number is none that JSON has
	}
}

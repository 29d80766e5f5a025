//go:build gotorch

// Sentences serves sentence vectors over HTTP: a BERT encoder in Go, over the weights in a model file or in this node's Ray
// store, which are the very pages that the Python workers have mapped.
//
//	make gotorch
//	_build/gotorch/sentences encoder.rzc all-MiniLM-L6-v2 localhost:8080
//	_build/gotorch/sentences --workers 2 store:BertModel all-MiniLM-L6-v2 localhost:8080
//	curl localhost:8080/vectors -d '{"sentences": ["hello world", "good morning"]}'
//
// The folder has config.json and tokenizer.json, as transformers and sentence-transformers write them.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/store"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/torch"
)

const (
	maxBody  = 1 << 20
	maxBatch = 32 // sentences that are encoded at once; more are several batches
)

func main() {
	workers := flag.Int("workers", 1, "how many requests are answered at once")
	threads := flag.Int("threads", 1, "on how many threads each is computed")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: sentences [--workers N] [--threads N] FILE|store:CLASS FOLDER ADDRESS")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 3 || *workers < 1 || *threads < 1 {
		flag.Usage()
		os.Exit(2)
	}
	torch.SetThreads(*threads)
	service, err := open(flag.Arg(0), flag.Arg(1), *workers)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", flag.Arg(2))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving on", listener.Addr())
	http.Handle("POST /vectors", service)
	server := &http.Server{ReadTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}

// A service has one encoder for each request that it answers at once. They are over the same image, so its weights are there
// once. It stays mapped as long as the service runs.
type service struct {
	tokens   *tokenizer
	encoders chan *torch.Encoder
	check    func() error // whether the image still is what it was; nil for a file, which stays
}

func open(where, folder string, workers int) (*service, error) {
	s := &service{encoders: make(chan *torch.Encoder, workers)}
	var model *image.Image
	if what, stored := strings.CutPrefix(where, "store:"); stored {
		entry, err := store.Find(what)
		if err != nil {
			return nil, err
		}
		found, err := entry.Open()
		if err != nil {
			return nil, err
		}
		model, s.check = found.Image, found.Check
	} else {
		found, err := image.Open(where)
		if err != nil {
			return nil, err
		}
		model = found
	}
	config, err := torch.ReadConfig(folder)
	if err != nil {
		return nil, err
	}
	if s.tokens, err = readTokenizer(folder); err != nil {
		return nil, err
	}
	for range workers {
		encoder, err := torch.NewEncoder(torch.Weights(model), config)
		if err != nil {
			return nil, err
		}
		s.encoders <- encoder
		s.tokens.Limit = min(s.tokens.Limit, encoder.MaxTokens())
	}
	return s, nil
}

func (s *service) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	var asked struct{ Sentences []string }
	body := http.MaxBytesReader(response, request.Body, maxBody)
	if err := json.NewDecoder(body).Decode(&asked); err != nil {
		http.Error(response, `expected {"sentences": ["..."]}: `+err.Error(), http.StatusBadRequest)
		return
	}
	vectors, err := s.encode(asked.Sentences)
	switch {
	case errors.Is(err, store.ErrGone):
		http.Error(response, err.Error(), http.StatusServiceUnavailable)
		return
	case err != nil:
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	response.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(response).Encode(vectors); err != nil {
		log.Print(err) // who asked has gone
	}
}

func (s *service) encode(sentences []string) ([][]float32, error) {
	tokens := make([][]int64, len(sentences))
	for i, each := range sentences {
		tokens[i] = s.tokens.Encode(each)
	}
	encoder := <-s.encoders
	defer func() { s.encoders <- encoder }()
	vectors := [][]float32{}
	for begin := 0; begin < len(tokens); begin += maxBatch {
		found, err := encoder.Encode(tokens[begin:min(begin+maxBatch, len(tokens))])
		if err != nil {
			return nil, err
		}
		vectors = append(vectors, found...)
	}
	if s.check != nil { // nobody keeps what is in the store for this process
		if err := s.check(); err != nil {
			return nil, err
		}
	}
	return vectors, nil
}

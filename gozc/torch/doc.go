//go:build gotorch

// Package torch runs models in Go, with libtorch, over the weights of an image as they lie: mapped, and shared with the
// Python workers that have loaded the same one. It stands on github.com/wangkuiyi/gotorch, and is there under the build tag
// gotorch only: build/gotorch.py builds gotorch's C++ half against the torch that pip has installed, and runs Go with what it
// needs to find both.
//
//	model, err := image.Open("minilm.rzc")
//	...
//	config, err := torch.ReadConfig("all-MiniLM-L6-v2")
//	...
//	encoder, err := torch.NewEncoder(torch.Weights(model), config)
//	...
//	vectors, err := encoder.Encode([][]int64{{101, 7592, 2088, 102}})
//
// An Encoder (BERT: tokens in, sentence vectors out) and an MLP give, bit for bit, what the same model gives in Python, with
// the same torch and the same number of threads. Other models are written with Do and the operations of a Scope.
//
// # Caveats
//
// The weights stay where they are: whoever unmaps an image ends a process that still runs a model over it. Close the model
// first. Of an image in Ray's store the caller has to say afterwards whether it was there all the time: see package store.
//
// libtorch has threads of its own, for each thread that calls it. So a model has one of the system's, on which all its calls
// run, one after the other. A service that wants to answer two at a time opens two models over the same image, whose
// weights are there once, and gives each fewer threads: SetThreads is for the whole process.
package torch

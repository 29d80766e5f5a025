package main

import "io"

// run is there in every build, so that --help says how to have it; run.go has what it does.
var run = &verb{
	name:  "run",
	short: "run a model: an MLP, or a BERT encoder of sentences",
	description: `Runs the model whose weights are in a model file, in a .safetensors file, or in an image in this node's store (store:...), with
libtorch, over the weights as they lie. INPUTS is a file of JSON, or - for stdin; the outputs are JSON too, a list for each.

  BERT  (there are word embeddings): a list of tokens for each sentence, with [CLS] and [SEP]; its vector comes out.
  MLP   (linear layers, one after the other): a list of numbers for each row; that of its outputs comes out.

With the same torch and as many threads, they are bit for bit those of the same model in Python.
`,
	operands: []string{"FILE", "INPUTS"},
	options: map[string]string{
		"--activation=": "of an MLP, between its layers: gelu, gelu_pytorch_tanh, relu, sigmoid, tanh (relu)",
		"--config=":     "the folder of BERT's config.json, and of what sentence-transformers has there (that of FILE)",
		"--threads=":    "how many threads compute (half of the processors)",
	},
	run: func(given, io.Writer) error {
		return failed("this rzc was built without libtorch; in a checkout, make gotorch builds one with it, _build/gotorch/rzc")
	},
}

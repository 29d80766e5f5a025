//go:build gotorch

package torch

import "errors"

var (
	// ErrModel is returned for weights that are not those of the model that was asked for. The text says which one is
	// missing, too many, or of another shape.
	ErrModel = errors.New("these are not the weights of such a model")

	// ErrConfig is returned for a config.json that asks for what this package does not do.
	ErrConfig = errors.New("this configuration cannot be used")

	// ErrInput is returned for input that the model does not take.
	ErrInput = errors.New("this is no input of the model")

	// ErrDtype is returned for a tensor of a dtype that gotorch does not know, or that the model cannot compute with.
	ErrDtype = errors.New("this dtype cannot be used")

	// ErrTorch is returned where libtorch fails, with its words.
	ErrTorch = errors.New("libtorch failed")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("this model was closed")
)

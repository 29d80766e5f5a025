// Rzc looks into model images, files and what lies in Ray's store, without Python: see docs/go.md. What it has in common
// with python -m ray_zerocopy says the same, and ends with the same exit code.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// A verb is what follows the program's name, in a file of its own.
type verb struct {
	name        string
	short       string
	description string
	operands    []string          // their names; one that ends in "..." stands for one or more
	options     map[string]string // with what they do; those that end in "=" take a value
	run         func(given, io.Writer) error
}

var verbs = []*verb{inspect, verify, diff, convert, cat, store, run}

// given is what was written behind a verb.
type given struct {
	operands []string
	options  map[string]string
}

func (g given) has(option string) bool {
	_, there := g.options[option]
	return there
}

// errDone is returned by a verb that has said all there is to say, and has found what makes the exit code 1.
var errDone = errors.New("the exit code is 1")

const exitCodes = "exit codes: 0: done; 1: it could not be done, or what was looked for is wrong; 2: the arguments are wrong"

func main() {
	signal.Ignore(syscall.SIGPIPE) // who reads, `head` for one, may have seen enough
	out := bufio.NewWriter(os.Stdout)
	code := command(os.Args[1:], out, os.Stderr)
	if out.Flush() != nil && code == 0 {
		code = 1
	}
	os.Exit(code)
}

func command(arguments []string, out, errs io.Writer) int {
	if len(arguments) == 0 || slices.Contains([]string{"-h", "--help", "help"}, arguments[0]) {
		if len(arguments) == 0 {
			fmt.Fprint(errs, "usage: rzc VERB\nrzc: error: the following arguments are required: VERB\n")
			return 2
		}
		fmt.Fprint(out, "usage: rzc VERB\n\n")
		for _, each := range verbs {
			fmt.Fprintf(out, "  %-9s %s\n", each.name, each.short)
		}
		fmt.Fprintf(out, "\n--help after a verb teaches it.\n%s\n", exitCodes)
		return 0
	}
	at := slices.IndexFunc(verbs, func(each *verb) bool { return each.name == arguments[0] })
	if at < 0 {
		fmt.Fprintf(errs, "usage: rzc VERB\nrzc: error: there is no verb %q\n", arguments[0])
		return 2
	}
	verb := verbs[at]
	parsed, err := verb.parse(arguments[1:])
	if err != nil {
		fmt.Fprintf(errs, "usage: %s\nrzc %s: error: %v\n", verb.usage(), verb.name, err)
		return 2
	}
	if parsed.has("--help") {
		fmt.Fprintf(out, "usage: %s\n\n%s\n%s\n%s\n", verb.usage(), verb.description, verb.help(), exitCodes)
		return 0
	}
	switch err := verb.run(parsed, out); {
	case err == nil:
		return 0
	case !errors.Is(err, errDone) && !errors.Is(err, syscall.EPIPE):
		say(errs, "", err)
	}
	return 1
}

// parse sorts arguments into operands and options, which may stand in any order; what follows "--" are operands.
func (v *verb) parse(arguments []string) (given, error) {
	found := given{options: map[string]string{}}
	for len(arguments) > 0 {
		argument := arguments[0]
		arguments = arguments[1:]
		name, value, valued := strings.Cut(argument, "=")
		_, takes := v.options[name+"="]
		_, plain := v.options[name]
		switch {
		case argument == "--":
			found.operands, arguments = append(found.operands, arguments...), nil
		case argument == "-h" || argument == "--help":
			return given{options: map[string]string{"--help": ""}}, nil
		case !strings.HasPrefix(argument, "-") || argument == "-":
			found.operands = append(found.operands, argument)
		case plain && !valued:
			found.options[name] = ""
		case takes && valued:
			found.options[name] = value
		case takes && len(arguments) > 0:
			found.options[name], arguments = arguments[0], arguments[1:]
		case takes:
			return given{}, fmt.Errorf("argument %s: expected one argument", name)
		default:
			return given{}, fmt.Errorf("unrecognized arguments: %s", argument)
		}
	}
	many := len(v.operands) > 0 && strings.HasSuffix(v.operands[len(v.operands)-1], "...")
	if missing := len(v.operands) - len(found.operands); missing > 0 {
		names := strings.Join(v.operands[len(found.operands):], ", ")
		return given{}, fmt.Errorf("the following arguments are required: %s", names)
	}
	if !many && len(found.operands) > len(v.operands) {
		return given{}, fmt.Errorf("unrecognized arguments: %s", strings.Join(found.operands[len(v.operands):], " "))
	}
	return found, nil
}

func (v *verb) usage() string {
	words := append([]string{"rzc", v.name}, v.operands...)
	for _, name := range v.optionNames() {
		words = append(words, "["+strings.Replace(name, "=", " VALUE", 1)+"]")
	}
	return strings.Join(words, " ")
}

func (v *verb) help() string {
	var lines strings.Builder
	for _, name := range v.optionNames() {
		fmt.Fprintf(&lines, "  %-16s %s\n", strings.Replace(name, "=", " VALUE", 1), v.options[name])
	}
	return lines.String()
}

func (v *verb) optionNames() []string {
	var names []string
	for name := range v.options {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

package gozc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// gopy drops functions of other shapes without a word, and a panic that nobody recovers ends the Python process.
func TestEveryExportRecoversAndHasAShapeThatGopyBinds(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "gozc.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	exported := 0
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok || !function.Name.IsExported() {
			continue
		}
		exported++
		name := function.Name.Name
		for _, parameter := range function.Type.Params.List {
			if kind := identifier(parameter.Type); kind != "int64" && kind != "string" {
				t.Errorf("%s takes a %s", name, kind)
			}
		}
		results := function.Type.Results.List
		if len(results) != 2 || len(results[0].Names) != 1 || len(results[1].Names) != 1 {
			t.Errorf("%s does not have two named results", name)
			continue
		}
		if kind := identifier(results[0].Type); kind != "int64" && kind != "string" {
			t.Errorf("%s returns a %s", name, kind)
		}
		if identifier(results[1].Type) != "error" || results[1].Names[0].Name != "err" {
			t.Errorf("the second result of %s is not err, an error", name)
		}
		if !defersRecovered(function.Body.List[0]) {
			t.Errorf("%s does not begin with defer recovered(&err)", name)
		}
	}
	if exported != 21 {
		t.Errorf("%d exported functions: has the interface in python/ray_zerocopy/core.py changed as well?", exported)
	}
}

func identifier(expression ast.Expr) string {
	if name, ok := expression.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

func defersRecovered(statement ast.Stmt) bool {
	deferred, ok := statement.(*ast.DeferStmt)
	if !ok || identifier(deferred.Call.Fun) != "recovered" || len(deferred.Call.Args) != 1 {
		return false
	}
	argument, ok := deferred.Call.Args[0].(*ast.UnaryExpr)
	return ok && argument.Op == token.AND && identifier(argument.X) == "err"
}

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json/jsontext"
	"strconv"
	"strings"
)

// How contents are written as JSON strings.
const (
	encodingText   = "utf-8"
	encodingBase64 = "base64"
)

// field is one parameter of a method.
type field struct {
	name     string
	required bool
	kind     string // how an error names what it must be
	set      func(jsontext.Value) bool
}

// text is a required parameter that is a string.
func text(name string, into *string) field {
	return field{name, true, "a string", func(value jsontext.Value) bool { return asText(value, into) }}
}

// optional makes a parameter one that may be missing.
func optional(f field) field {
	f.required = false
	return f
}

// boolean is a required parameter that is true or false.
func boolean(name string, into *bool) field {
	return field{name, true, "true or false", func(value jsontext.Value) bool {
		*into = value.Kind() == 't'
		return *into || value.Kind() == 'f'
	}}
}

// integer is a required parameter that is a whole number of a range, both ends included.
func integer(name string, into *int64, least, most int64) field {
	kind := "a whole number from " + strconv.FormatInt(least, 10) + " to " + strconv.FormatInt(most, 10)
	return field{name, true, kind, func(value jsontext.Value) bool {
		number, err := strconv.ParseInt(string(value), 10, 64)
		*into = number
		return err == nil && least <= number && number <= most
	}}
}

// textOrNumber is a required parameter that is a string, or a whole number, as its digits.
func textOrNumber(name string, into *string) field {
	return field{name, true, "a string or a whole number", func(value jsontext.Value) bool {
		if _, err := strconv.ParseUint(string(value), 10, 32); err == nil {
			*into = string(value)
			return true
		}
		return asText(value, into)
	}}
}

// variables is a required parameter that is an object of strings, as NAME=value.
func variables(name string, into *[]string) field {
	return field{name, true, "an object of strings", func(value jsontext.Value) bool {
		valid := true
		err := eachMember(value, func(name string, value jsontext.Value) {
			var setting string
			valid = valid && asText(value, &setting) && name != "" && !strings.ContainsAny(name, "=\x00") &&
				!strings.Contains(setting, "\x00")
			*into = append(*into, name+"="+setting)
		})
		return err == nil && valid
	}}
}

// nested is a required parameter that is an object with parameters of its own.
func nested(name string, fields ...field) field {
	return field{name, true, "an object as documented", func(value jsontext.Value) bool {
		return value.Kind() == '{' && decodeParams(value, fields...) == nil
	}}
}

// encoding is the optional parameter that says how contents are written.
func encoding(into *string) field {
	*into = encodingText
	return field{"encoding", false, "utf-8 or base64", func(value jsontext.Value) bool {
		return asText(value, into) && (*into == encodingText || *into == encodingBase64)
	}}
}

// decodeContent turns a content as it was sent into its bytes.
func decodeContent(name, content, encoding string) ([]byte, *rpcError) {
	if encoding != encodingBase64 {
		return []byte(content), nil
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(content)
	if err != nil {
		return nil, invalidParams(name + " is not base64")
	}
	return decoded, nil
}

// textList is a required parameter that is a list of strings.
func textList(name string, into *[]string) field {
	return field{name, true, "a list of strings", func(value jsontext.Value) bool {
		decoder := jsontext.NewDecoder(bytes.NewBuffer(value))
		if token, err := decoder.ReadToken(); err != nil || token.Kind() != '[' {
			return false
		}
		for decoder.PeekKind() != ']' {
			var item string
			if element, err := decoder.ReadValue(); err != nil || !asText(element, &item) {
				return false
			}
			*into = append(*into, item)
		}
		return true
	}}
}

// decodeParams reads a method's params. Missing params, and null, are an empty object.
func decodeParams(params jsontext.Value, fields ...field) *rpcError {
	if kind := params.Kind(); kind == 'n' || kind == jsontext.KindInvalid {
		params = jsontext.Value("{}")
	}
	seen := map[string]bool{}
	var problem *rpcError
	err := eachMember(params, func(name string, value jsontext.Value) {
		seen[name] = true
		if problem == nil {
			problem = setField(fields, name, value)
		}
	})
	if err != nil {
		return invalidParams("must be an object")
	}
	for _, f := range fields {
		if problem == nil && f.required && !seen[f.name] {
			problem = invalidParams(f.name + " is missing")
		}
	}
	return problem
}

func setField(fields []field, name string, value jsontext.Value) *rpcError {
	for _, f := range fields {
		if f.name != name {
			continue
		}
		if !f.set(value) {
			return invalidParams(name + " must be " + f.kind)
		}
		return nil
	}
	return invalidParams("unknown parameter " + name)
}

# METADATA
# title: Who may ask this OPA what
# description: >
#   Health for everyone on its network; decisions for the holder of the token (the variable OPA_TOKEN); a change
#   of policy or data for nobody.
package system.authz

default allow := false

allow if {
	input.method == "GET"
	input.path == ["health"]
}

allow if {
	token := opa.runtime().env.OPA_TOKEN
	token != ""
	input.identity == token
	input.method == "POST"
	array.slice(input.path, 0, 2) == ["v1", "data"]
}

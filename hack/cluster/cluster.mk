# The local cluster: a real Kubernetes on this machine, in a network namespace of its
# own. With CLUSTER=current everything uses the current kubeconfig context instead.
# Included by the top-level Makefile.

.PHONY: cluster-up cluster-down cluster-status cluster-kubectl cluster-tools cluster-smoke

cluster-up: ## Bring the local cluster up (repairs a broken one)
	@hack/cluster/up

cluster-down: ## Take the local cluster down and leave nothing behind
	@hack/cluster/down

cluster-status: ## Show what of the local cluster runs
	@hack/cluster/status

cluster-kubectl: ## Run kubectl against the cluster: make cluster-kubectl ARGS="get pods -A"
	@hack/cluster/kubectl $(ARGS)

cluster-tools: ## Build the cluster's programs into the cache folder (about 10 min, once)
	@hack/cluster/tools/build >/dev/null

cluster-smoke: ## Try pods with sidecars, logs, exec and scaling on the cluster
	@hack/cluster/smoke

"""What must be computed: operations, graph and model builders."""

"""The paper's study: problems, replicates, levels, run directories, resumption (see ``study.study``)."""

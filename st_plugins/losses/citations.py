"""BibTeX of the papers that the losses follow, for model cards."""

TWO_D_MATRYOSHKA = """
@misc{li2024twodimensional,
    title={2D Matryoshka Sentence Embeddings},
    author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},
    year={2024},
    eprint={2402.14776},
    archivePrefix={arXiv}
}
"""

ESPRESSO = """
@inproceedings{li2025ese,
    title={ESE: Espresso Sentence Embeddings},
    author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},
    booktitle={ICLR},
    year={2025},
    url={https://arxiv.org/abs/2402.14776v2}
}
"""

STARBUCKS = """
@misc{zhuang2024starbucks,
    title={Starbucks: Improved Training for 2D Matryoshka Embeddings},
    author={Shengyao Zhuang and Shuai Wang and Bevan Koopman and Guido Zuccon},
    year={2024},
    eprint={2410.13230},
    archivePrefix={arXiv}
}
"""

GENERATION_RETRIEVAL = """
@misc{man2024ullme,
    title={ULLME: A Unified Framework for Large Language Model Embeddings with Generation-Augmented Learning},
    author={Hieu Man and Nghia Trung Ngo and Franck Dernoncourt and Thien Huu Nguyen},
    year={2024},
    eprint={2408.03402},
    archivePrefix={arXiv}
}
"""

NV_EMBED = """
@misc{lee2024nvembed,
    title={NV-Embed: Improved Techniques for Training LLMs as Generalist Embedding Models},
    author={Lee, Chankyu and Roy, Rajarshi and Xu, Mengyao and Raiman, Jonathan and Shoeybi, Mohammad and others},
    year={2024},
    eprint={2405.17428},
    archivePrefix={arXiv}
}
"""

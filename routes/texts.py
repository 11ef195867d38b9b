"""The texts of the pages that the API serves itself, in the browser's language: the login and operations."""

from collections.abc import Mapping

from flask import request

LANGUAGES = ("en", "fr")
# Texts by name, in English and French.
TEXTS = {
    "title": ("MetScope", "MetScope"),
    "token": ("Your token", "Votre jeton"),
    "open": ("Open", "Ouvrir"),
    "token_refused": (
        "This token is unknown or has been revoked. Ask your MetScope administrator for a new one.",
        "Ce jeton est inconnu ou révoqué. Demandez-en un autre à votre administrateur MetScope.",
    ),
    "version": ("Version", "Version"),
    "research": (
        "For research use only; not for diagnosis.",
        "Pour la recherche uniquement ; pas pour le diagnostic.",
    ),
    "operations": ("MetScope operations", "Exploitation de MetScope"),
    "renews": ("This page refreshes every 10 s.", "Cette page s’actualise toutes les 10 s."),
    "studies": ("Study list", "Liste des examens"),
    "api": ("API reference", "Référence de l’API"),
    "parts": ("Components", "Composants"),
    "database": ("Database", "Base de données"),
    "archive": ("Archive", "PACS"),
    "broker": ("Broker", "File de messages"),
    "data": ("Data folder", "Dossier de données"),
    "models": ("Models", "Modèles"),
    "worker": ("Worker", "Calcul"),
    "works": ("works", "fonctionne"),
    "workers": ("Workers", "Processus de calcul"),
    "no_model": ("no model", "aucun modèle"),
    "none": ("none", "aucun"),
    "missing": (
        "Stored segmentations missing from the archive",
        "Segmentations enregistrées absentes du PACS",
    ),
    "waiting": ("Objects waiting for the archive", "Objets en attente du PACS"),
    "running": ("Running", "En cours"),
    "queued": ("Queued", "En attente"),
    "failed": ("Failed", "Échouées"),
    "done": ("Done", "Terminées"),
    "newest": ("newest", "plus récentes"),
    "study": ("Study", "Examen"),
    "kind": ("Kind", "Nature"),
    "requested": ("Requested (UTC)", "Demandée (UTC)"),
    "by": ("By", "Par"),
    "stage": ("Stage", "Étape"),
    "attempts": ("Attempts", "Essais"),
    "result": ("Lesions", "Lésions"),
    "happened": ("What happened", "Ce qui s’est passé"),
    "action": ("Action", "Action"),
    "again_at": ("retry at", "nouvel essai à"),
    "being_cancelled": ("being cancelled", "annulation en cours"),
    "cancel": ("Cancel", "Annuler"),
    "retry": ("Retry", "Relancer"),
    "segmentation": ("segmentation", "segmentation"),
    "correction": ("correction", "correction"),
    "measurement": ("measurement", "mesure"),
    "restoration": ("restoration", "retour à une version"),
    "rtstruct": ("structure set", "jeu de structures"),
    "uncertainty": ("uncertainty map", "carte d’incertitude"),
}


def language() -> str:
    """Return the language of the page: the browser's, or English if there are no texts in it."""
    return request.accept_languages.best_match(LANGUAGES) or LANGUAGES[0]


def texts() -> Mapping[str, str]:
    """Return the texts by name, in the language of the page."""
    index = LANGUAGES.index(language())
    return {name: sentences[index] for name, sentences in TEXTS.items()}
